"""Closed forms against torch's dispatch counter, for every method, and against counts by hand."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import VisionTransformer

from tests import small
from wasi.layers.base import LowRankLayer
from wasi.linalg import absorbed
from wasi.measure.dispatch_flops import flop_counter
from wasi.measure.flops import inference_flops, step_flops
from wasi.models.modes import evaluating, without_fast_path
from wasi.models.structure import find_blocks
from wasi.training.checkpointing import checkpoint_blocks
from wasi.training.lean import LeanStep
from wasi.training.step import TrainStep


def counted(run) -> int:
    with flop_counter() as counter:
        run()
    return counter.get_total_flops()


def build(model: str, name: str, scope: str, checkpointed: bool = False, optimizer=torch.optim.SGD, micro=None):
    images, labels = small.batch(6)
    net = small.method(name, scope).apply(small.build(model), [(images, labels)])
    if checkpointed:
        checkpoint_blocks(net)
    trainable = [p for p in net.parameters() if p.requires_grad]
    step = TrainStep(net, optimizer(trainable, lr=1e-3), lambda x: x, 2.0, micro)
    return net, step, images, labels


def few_tokens(images):
    """A ViT that sees four patches and a class token."""
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64, "num_classes": small.CLASSES}
    return VisionTransformer(image_size=images.shape[-1], patch_size=images.shape[-1] // 2, **sizes)


CASES = [(model, name, "all") for model in ("torchvision_vit", "timm_vit") for name in small.METHODS]
CASES += [("swin", name, "all") for name in ("vanilla", "wasi", "svd_llm")]
CASES += [("timm_vit", name, "mlp") for name in ("wasi", "asi", "lora")]


@pytest.mark.parametrize(("model", "name", "scope"), CASES)
def test_whole_step_and_inference(model, name, scope):
    net, step, images, labels = build(model, name, scope)
    flops = step_flops(net, images, len(images))
    assert flops["flops/train_step"] == pytest.approx(counted(lambda: step(images, labels)), rel=0.01)
    low_rank = [m for m in net.modules() if isinstance(m, LowRankLayer)]
    assert (flops["flops/train_subspace"] > 0) == any(not hasattr(m, "merged") for m in low_rank)
    with evaluating(net), without_fast_path():
        assert flops["flops/inference"] == pytest.approx(counted(lambda: net(images)), rel=0.01)


@pytest.mark.parametrize("name", ["wasi", "svd_llm"])
def test_inference_with_thin_attention(name, monkeypatch):
    """It multiplies factors with each other then, and so must the trace."""
    images, labels = small.batch(6)
    net = small.method(name, "all", 0.4).apply(few_tokens(images), [(images, labels)])
    traced = inference_flops(net, images, len(images))
    with evaluating(net):
        absorbing = counted(lambda: net(images))
        assert traced == pytest.approx(absorbing, rel=1e-3)
        monkeypatch.setattr(absorbed, "saves_work", lambda *sizes: False)
        assert counted(lambda: net(images)) > 1.1 * absorbing


@pytest.mark.parametrize("model", small.MODELS)
def test_vanilla_forward_and_backward_apart(model):
    net, _, images, labels = build(model, "vanilla", "mlp")
    flops = step_flops(net, images, len(images))
    with flop_counter() as counter:
        loss = F.cross_entropy(net(images), labels)
    assert flops["flops/train_forward"] == counter.get_total_flops()
    assert flops["flops/train_backward"] == counted(loss.backward)


@pytest.mark.parametrize("model, name", [("torchvision_vit", "vanilla"), ("timm_vit", "lora"), ("swin", "wasi")])
def test_checkpointing_counts_as_backward(model, name):
    plain, *_, images, labels = build(model, name, "all")
    before = step_flops(plain, images, len(images))
    net, step, *_ = build(model, name, "all", checkpointed=True)
    flops = step_flops(net, images, len(images), repeated=find_blocks(net))
    assert flops["flops/train_step"] == pytest.approx(counted(lambda: step(images, labels)), rel=0.01)
    assert flops["flops/train_backward"] > before["flops/train_backward"]
    for same in ("flops/train_forward", "flops/train_subspace", "flops/inference"):
        assert flops[same] == before[same]


@pytest.mark.parametrize("name", ["vanilla", "wasi", "lora"])
@pytest.mark.parametrize("chunk", [3, 4])
def test_lean_repeats_whole_blocks_in_chunks(name, chunk):
    images, labels = small.batch(6)
    net = small.method(name, "all").apply(small.build("timm_vit"), [(images, labels)])
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    step = LeanStep(net, optimizer, lambda x: x, 2.0, chunk_size=chunk, segment_size=2, storage=torch.float32)
    with step.unchunked():
        flops = step_flops(net, images, 6, repeated=step.repeated, chunk_size=step.chunk_size)
    assert flops["flops/train_step"] == pytest.approx(counted(lambda: step(images, labels)), rel=0.01)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("micro", [None, 3])
def test_either_form_of_the_subspace_step_and_micro_batches(optimizer, micro):
    """SGD steps on the thin gradient coordinates, AdamW on gradients of the factors."""
    net, step, images, labels = build("timm_vit", "wasi", "all", optimizer=optimizer, micro=micro)
    flops = step_flops(net, images, len(images), micro)
    assert flops["flops/train_step"] == pytest.approx(counted(lambda: step(images, labels)), rel=0.01)


def test_nothing_below_the_first_trainable_operand():
    net, _, images, labels = build("torchvision_vit", "vanilla", "mlp")
    for p in net.parameters():
        p.requires_grad_(False)
    net.heads.requires_grad_(True)
    head = 2 * len(images) * 32 * small.CLASSES
    assert step_flops(net, images, len(images))["flops/train_backward"] == head


def test_unfused_attention_of_a_bias_that_trains():
    """Four products where the fused kernel takes five."""

    class Attend(nn.Module):
        def __init__(self, trains: bool):
            super().__init__()
            self.qkv = nn.Linear(8, 24, bias=False)
            self.bias = nn.Parameter(torch.zeros(5, 5), requires_grad=trains)

        def forward(self, x):
            return F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1), attn_mask=self.bias)

    x, pairs = torch.randn(4, 2, 5, 8), 4 * 2 * 5 * 5
    project = 2 * 4 * 2 * 5 * 8 * 24
    for trains, products in [(False, 5), (True, 4)]:
        net = Attend(trains)
        got = step_flops(net, x, 4)
        assert got["flops/train_forward"] == project + 2 * 2 * pairs * 8
        assert got["flops/train_backward"] == project + products * 2 * pairs * 8
        out = net(x).sum()
        assert counted(out.backward) == got["flops/train_backward"]


def test_counting_leaves_the_model_and_the_random_state_alone():
    net, step, images, labels = build("timm_vit", "wasi", "all")
    step(images, labels)
    net.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    step_flops(net, images, len(images))
    assert torch.equal(torch.get_rng_state(), state) and not net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    other = build("timm_vit", "wasi", "all")[1]
    other(images, labels)
    assert step(images, labels) == other(images, labels)


def test_fast_path_hides_nothing_from_inference():
    net = small.build("torchvision_vit")
    images = torch.randn(4, 3, 16, 16)
    with evaluating(net):
        hidden = counted(lambda: net(images))
        with without_fast_path():
            full = counted(lambda: net(images))
    assert inference_flops(net, images, 4) == full > hidden


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def test_a_function_without_a_rule_is_told(caplog):
    class Net(nn.Module):
        def forward(self, x):
            return Doubled.apply(x)

    with caplog.at_level(logging.WARNING):
        step_flops(Net(), torch.zeros(1, 3), 2)
    assert "no rule for Doubled" in caplog.text


@pytest.mark.parametrize("name", ["wasi", "lora"])
def test_attention_on_few_tokens(name):
    """There training has a Function of its own, which takes images one at a time."""
    images, labels = small.batch(6)
    net = small.method(name, "all").apply(few_tokens(images), [(images, labels)])
    trainable = [p for p in net.parameters() if p.requires_grad]
    step = TrainStep(net, torch.optim.SGD(trainable, lr=1e-3), lambda x: x, 2.0)
    flops = step_flops(net, images, len(images))
    assert flops["flops/train_step"] == pytest.approx(counted(lambda: step(images, labels)), rel=0.01)
