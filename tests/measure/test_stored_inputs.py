"""What linears keep of their inputs, against the paper's accounting and against counts by hand."""

import pytest
import torch
from torch import nn

from tests import small
from wasi.layers.activation import TuckerState, advance
from wasi.linalg import batched
from wasi.measure.accounting import paper_accounting
from wasi.measure.stored_inputs import StoredInputs
from wasi.methods.selection import ActivationRanks
from wasi.training.gradient_checkpointing import checkpoint_blocks
from wasi.training.lean import LeanStep
from wasi.training.step import TrainStep

BATCH = 8
WIDTH, BLOCKS = 32, 2
MIB = 1024**2


def stored(model, scope="mlp", make=TrainStep, **options) -> float:
    images, labels = small.batch(BATCH)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    step = make(model, optimizer, lambda x: x, **options)
    with StoredInputs(model, scope) as saved:
        step(images, labels)
    return saved.mib


def accounted(model, scope="mlp") -> float:
    found = paper_accounting(model, scope, small.batch(1)[0], BATCH)
    return found["memory/paper_train_mib"] - found["memory/paper_inference_mib"]


@pytest.mark.parametrize("name", ["vanilla", "lora", "svd_llm", "wsi"])
@pytest.mark.parametrize("model", small.MODELS)
def test_the_accounting_describes_what_is_kept_of_an_mlps_inputs(model, name):
    net = small.applied(model, name, scope="mlp")
    assert stored(net) == pytest.approx(accounted(net), rel=1e-12)


@pytest.mark.parametrize("name", ["wasi", "asi"])
@pytest.mark.parametrize("model, hidden", [("torchvision_vit", 64), ("timm_vit", 128)])
def test_core_and_bases_of_an_mlps_inputs(model, hidden, name):
    """The batch mode is whole, so it has no basis; those of tokens (`17 x 3`) and features are saved.

    In a step that moves a layer's bases, each of them keeps a product of its own size, too.
    """
    ranks = ActivationRanks("fixed", None, [BATCH, 3, 5])
    net = small.applied(model, name, scope="mlp", activations=ranks)
    bases = [17 * 3 + features * 5 for features in (WIDTH, hidden)]
    moving = BLOCKS * 4 * sum(BATCH * 3 * 5 + 2 * basis for basis in bases) / MIB
    assert stored(net) == moving
    for state in (m for m in net.modules() if isinstance(m, TuckerState)):
        state.update_gap, state._steps = 100, 1
        advance([state])
    assert stored(net) == moving - BLOCKS * 4 * sum(bases) / MIB == pytest.approx(accounted(net), rel=1e-12)


@pytest.mark.parametrize("model", small.MODELS)
def test_one_input_of_query_key_and_value_is_kept_once(model):
    net = small.applied(model, "vanilla")
    assert accounted(net, "attention") == 2 * stored(net, "attention")  # 3 + 1 inputs of one size, and 1 + 1
    assert stored(net, "all") == stored(net, "attention") + stored(net, "mlp")


def test_linears_share_what_they_both_read():
    """Here query, key and value are linears of their own, and two are adapted."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.attn = nn.LayerNorm(WIDTH), Attention()

        def forward(self, x):
            return x + self.attn(self.norm(x))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, self.head = nn.Sequential(Block(), Block()), nn.Linear(WIDTH, small.CLASSES)

        def forward(self, images):
            return self.head(self.blocks(images.flatten(1).view(len(images), -1, WIDTH)).mean(1))

    tokens = 3 * 16 * 16 // WIDTH
    net = Net()
    assert stored(net, "attention") == 2 * BATCH * tokens * WIDTH * 4 / MIB
    for block in net.blocks:
        block.attn.requires_grad_(False)
    assert stored(net, "attention") == 0  # a frozen weight needs no input
    net.blocks[1].attn.k.weight.requires_grad_(True)
    assert stored(net, "attention") == BATCH * tokens * WIDTH * 4 / MIB


@pytest.mark.parametrize("name", ["vanilla", "wsi", "wasi"])
def test_what_is_repeated_is_not_kept(name):
    net = small.applied("timm_vit", name)
    checkpoint_blocks(net)
    assert stored(net, "all") == 0
    net = small.applied("timm_vit", name)
    assert stored(net, "all", LeanStep, chunk_size=4, segment_size=2, storage=torch.float32) == 0


def test_accumulation_keeps_one_micro_batch():
    net = small.applied("timm_vit", "wsi")
    whole = stored(net, "all")
    assert stored(net, "all", micro_batch_size=2) == whole / 4
    checkpoint_blocks(net)
    assert stored(net, "all", micro_batch_size=2) == 0  # repetitions end inside a layer, by an exception


@pytest.mark.parametrize("name", ["wsi", "wasi"])
def test_as_much_is_kept_where_small_matrices_are_computed_in_batches(name, monkeypatch):
    """As on an accelerator, by `torch.vmap`, in which an operator converts numbers that are no tensors, too."""
    expected = stored(small.applied("timm_vit", name))
    monkeypatch.setattr(batched, "is_on_cpu", lambda a: False)
    assert stored(small.applied("timm_vit", name)) == expected


def test_nothing_is_left_hooked():
    net = small.applied("timm_vit", "wasi")
    stored(net)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
