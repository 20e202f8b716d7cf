"""fvcore against torch's dispatch counter, and the phases of a step against counts by hand."""

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests import small
from tests.training.test_step import optimizer
from wasi.measure.dispatch_flops import flop_counter
from wasi.measure.flops import inference_flops, step_flops
from wasi.measure.forward_flops import forward_flops
from wasi.measure.run import subspace_work
from wasi.measure.stored_inputs import StoredInputs
from wasi.models.modes import eval_mode, without_fast_path
from wasi.training.gradient_checkpointing import checkpoint_blocks
from wasi.training.lean import LeanStep
from wasi.training.step import TrainStep


def counted(run) -> int:
    with flop_counter() as counter:
        run()
    return counter.get_total_flops()


def build(model: str, name: str, scope: str = "all", optimizer=torch.optim.SGD, make=TrainStep, **options):
    images, labels = small.batch(6)
    net = small.method(name, scope).apply(small.build(model), [(images, labels)])
    trainable = [p for p in net.parameters() if p.requires_grad]
    return make(net, optimizer(trainable, lr=1e-3), lambda x: x, 2.0, **options), images, labels


def counts(model: str, name: str, **options) -> dict[str, int]:
    step, images, labels = build(model, name, **options)
    return small.flops(step, images, labels)


def vit_micro():
    from wasi.models.micro import vit_micro

    return vit_micro(28, 10), torch.randn(2, 3, 28, 28)


def swin_t():
    from torchvision.models import swin_t

    return swin_t(num_classes=10), torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize("name", small.METHODS)
@pytest.mark.parametrize("model", small.MODELS)
def test_fvcore_and_the_dispatch_counter_agree_on_the_forward_pass(model, name):
    step, images, labels = build(model, name)
    net = step.model.train()
    with torch.no_grad():
        assert forward_flops(net, images) == counted(lambda: net(images))
    with eval_mode(net), without_fast_path():
        assert inference_flops(net, images) == counted(lambda: net(images))


@pytest.mark.parametrize("make", [vit_micro, swin_t])
def test_they_agree_on_whole_models(make):
    net, images = make()
    with eval_mode(net), without_fast_path():
        assert forward_flops(net, images) == counted(lambda: net(images)) > 1e6


class Products(nn.Module):
    """Every product of a `4 x 6 x 8` input that a trace may hold in another form than a linear layer's."""

    def forward(self, x):
        batch, tokens, width = x.shape
        square = x.new_ones(width, width)
        return (
            torch.baddbmm(x, x, square.expand(batch, width, width)),
            x.clone().baddbmm_(x, square.expand(batch, width, width)),
            x.new_ones(tokens, tokens) @ x,  # the first factor is the one that is repeated
            x @ square[0],
            x[0].clone().addmm_(x[0], square),
            torch.mm(x[0], square, out=x.new_empty(tokens, width)),
            torch.einsum("bnd,bmd->bnm", x, x),
            torch.einsum("bnd,hd->bhn", x, square),
        )


def test_every_form_of_a_product():
    x = torch.randn(4, 6, 8)
    whole, one = 4 * 6 * 8 * 8, 6 * 8 * 8
    expected = 2 * (2 * whole + 4 * 6 * 6 * 8 + 4 * 6 * 8 + 2 * one + 4 * 6 * 6 * 8 + whole)
    assert forward_flops(Products(), x) == expected == counted(lambda: Products()(x))


@pytest.mark.parametrize("model", small.MODELS)
def test_vanilla_forward_and_backward_apart(model):
    step, images, labels = build(model, "vanilla")
    found = small.flops(step, images, labels)
    net = step.model
    with flop_counter() as counter:
        loss = F.cross_entropy(net(images), labels)
    assert found["flops/train_forward"] == counter.get_total_flops()
    assert found["flops/train_backward"] == counted(loss.backward)
    assert found["flops/train_subspace"] == 0


@pytest.mark.parametrize("name", small.METHODS)
def test_phases_sum_to_the_step(name):
    step, images, labels = build("timm_vit", name)
    found = small.flops(step, images, labels)
    phases = [found[f"flops/train_{phase}"] for phase in ("forward", "backward", "subspace")]
    assert sum(phases) == found["flops/train_step"] == counted(lambda: step(images, labels))
    assert (phases[2] > 0) == (name in ("wasi", "wsi", "asi"))


@pytest.mark.parametrize("name", ["vanilla", "wsi", "wasi"])
def test_subspace_work_within_the_backward_pass_counts_as_that(name):
    def found(in_backward):
        net = small.applied("timm_vit", name)
        swan = optimizer(net, "wasi.training.swan.Swan", lr=1e-3)
        step = TrainStep(net, swan, lambda x: x, step_in_backward=in_backward)
        assert bool(step.in_backward) is in_backward
        return small.flops(step, *small.batch(6))

    assert found(True) == found(False)


def net_by_hand():
    """`B x 8` to 16 to 5, the first layer frozen: with the batch of 6 and the loss, a whole step by hand."""
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5))
    net[0].requires_grad_(False)
    return net, 2 * 6 * 8 * 16 + 2 * 6 * 16 * 5, 2 * 6 * 16 * 5


class Multiplies(torch.optim.SGD):
    """An optimizer with a product of 10 x 10 matrices in its step."""

    def step(self, closure=None):
        self.multiply()
        return super().step(closure)

    def multiply(self):
        return torch.ones(10, 10) @ torch.ones(10, 10)


def test_a_step_by_hand_without_the_optimizer_unless_that_is_subspace_work():
    net, forward, backward = net_by_hand()
    optimizer = Multiplies([p for p in net.parameters() if p.requires_grad], lr=0.1)
    step = TrainStep(net, optimizer, lambda x: x)
    x, y = torch.randn(6, 8), torch.arange(6) % 5
    assert step_flops(step, x, y, x, []) == {
        "flops/train_forward": forward,
        "flops/train_backward": backward,  # nothing below the first operand that trains
        "flops/train_subspace": 0,
        "flops/train_step": forward + backward,
    }
    whitened = step_flops(step, x, y, x, [(Multiplies, "multiply")])
    assert whitened["flops/train_subspace"] == 2 * 10**3
    assert whitened["flops/train_backward"] == backward


def test_subspace_work_counts_wherever_it_runs():
    """In the forward pass, in the backward pass and between them, once each time."""
    def multiply(*_) -> None:
        torch.ones(10, 10) @ torch.ones(10, 10)

    work = SimpleNamespace(multiply=multiply)
    net, forward, backward = net_by_hand()
    net[1].register_forward_hook(lambda *_: work.multiply() if torch.is_grad_enabled() else None)
    net[2].weight.register_hook(lambda _: work.multiply())
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: work.multiply())
    x, y = torch.randn(6, 8), torch.arange(6) % 5
    found = step_flops(TrainStep(net, optimizer, lambda x: x), x, y, x, [(work, "multiply")])
    assert found["flops/train_subspace"] == 3 * 2 * 10**3
    assert (found["flops/train_forward"], found["flops/train_backward"]) == (forward, backward)


@pytest.mark.parametrize("model, name", [("torchvision_vit", "vanilla"), ("timm_vit", "lora"), ("swin", "wasi")])
def test_checkpointing_counts_as_backward(model, name):
    """Modules run again inside the backward pass, each up to the last tensor that it keeps."""
    before = counts(model, name)
    step, images, labels = build(model, name)
    once = counted(lambda: step.model.train()(images))
    checkpoint_blocks(step.model)
    found = small.flops(step, images, labels)
    more = {key: found[key] - before[key] for key in found}
    assert 0.3 * once < more["flops/train_step"] < once
    assert more["flops/train_backward"] > 0.3 * before["flops/train_forward"]
    assert more["flops/train_forward"] == 0


@pytest.mark.parametrize("chunk", [3, 4])
def test_lean_repeats_everything_but_the_head_and_the_last_products(chunk):
    before = counts("timm_vit", "vanilla")
    sizes = {"chunk_size": chunk, "segment_size": 2, "storage": torch.float32}
    found = counts("timm_vit", "vanilla", make=LeanStep, **sizes)
    head = 2 * 6 * 32 * small.CLASSES
    embedding = 2 * 6 * 16 * (3 * 4 * 4) * 32
    fc2 = 2 * (6 - chunk) * 17 * 128 * 32  # both blocks are one segment; its first chunk is repeated whole
    again = found["flops/train_backward"] - before["flops/train_backward"]
    assert again == before["flops/train_forward"] - head - embedding - fc2
    assert found["flops/train_forward"] == before["flops/train_forward"]


@pytest.mark.parametrize("micro", [2, 3])
def test_accumulation_changes_nothing_for_a_dense_model(micro):
    assert counts("timm_vit", "vanilla", micro_batch_size=micro) == counts("timm_vit", "vanilla")


def test_the_fast_path_hides_nothing_from_inference():
    net = small.build("torchvision_vit")
    images = torch.randn(4, 3, 16, 16)
    with eval_mode(net):
        hidden = counted(lambda: net(images))
        with without_fast_path():
            full = counted(lambda: net(images))
    assert inference_flops(net, images) == full > hidden


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def test_a_function_that_a_trace_cannot_see_into_is_told(caplog):
    class Net(nn.Module):
        def forward(self, x):
            return Doubled.apply(x)

    with caplog.at_level(logging.WARNING):
        forward_flops(Net(), torch.zeros(1, 3))
    assert "Doubled" in caplog.text


@pytest.mark.parametrize(
    ("model", "name", "lean"),
    [
        *((model, name, lean) for model, lean in (("timm_vit", False), ("swin", True)) for name in small.METHODS),
        *((model, name, False) for model in ("torchvision_vit", "swin") for name in ("vanilla", "lora", "wasi")),
    ],
)
def test_one_step_serves_both_the_work_and_the_stored_inputs(model, name, lean):
    options = dict(make=LeanStep, chunk_size=3, segment_size=1, storage=torch.float32) if lean else {}
    work, alone = counts(model, name, **options), build(model, name, **options)
    with StoredInputs(alone[0].model, "all") as kept:
        alone[0](*alone[1:])
    step, images, labels = build(model, name, **options)
    observer = StoredInputs(step.model, "all")
    assert step_flops(step, images, labels, images, subspace_work(step), observer) == work
    assert observer.mib == kept.mib
