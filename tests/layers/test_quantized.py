"""LoRA on a base in 8 or 4 bits, against LoRA on the dense weight that these bits stand for."""

import copy

import pytest
import torch
from torch import nn

from tests.small import MODELS, applied, batch, flops
from wasi.errors import UserError
from wasi.layers.adapter import AdapterLinear
from wasi.layers.quantized import KINDS, QuantizedAdapterLinear, QuantizedWeight
from wasi.measure.accounting import paper_accounting
from wasi.measure.memory import LiveMemory
from wasi.models.structure import linear_sites
from wasi.training.gradient_checkpointing import checkpoint_blocks
from wasi.training.step import TrainStep


@pytest.fixture(params=KINDS)
def kind(request):
    if request.param == "nf4":
        pytest.importorskip("bitsandbytes")
    return request.param


def stepper(model):
    return TrainStep(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1), None)


def test_codes_are_as_near_as_their_bits_allow(kind):
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    base = QuantizedWeight(weight, kind)
    blocks = (base.dense(torch.float32) - weight).reshape(48, -1, 64), weight.reshape(48, -1, 64)
    error, size = (each.abs().amax(-1) for each in blocks)
    # Half a step of 1/127; half the widest gap between two levels of NF4, -1 and -0.6962.
    assert (error <= size * {"int8": 0.5 / 127, "nf4": 0.1520}[kind] * (1 + 1e-5)).all()
    bits = {"int8": 8, "nf4": 4}[kind]
    assert base.code.nbytes == 48 * 64 * bits // 8
    assert base.scale.nbytes == 4 * 48 and base.nbytes <= base.code.nbytes + 4 * 48 + 64


@pytest.mark.parametrize("name", MODELS)
def test_training_equals_that_on_the_dense_weight_of_the_codes(name, kind):
    dtype = torch.float64 if kind == "int8" else torch.float32
    model = applied(name, "lora", dtype, base=kind)
    dense = copy.deepcopy(model)
    for site in linear_sites(model, "all"):
        layer = model.get_submodule(site.name)
        assert isinstance(layer, QuantizedAdapterLinear)
        plain = AdapterLinear(nn.Parameter(layer.base.dense(dtype)), layer.bias, 2, 4, torch.Generator())
        plain.adapter = copy.deepcopy(layer.adapter)
        parent, _, child = site.name.rpartition(".")
        setattr(dense.get_submodule(parent), child, plain)
    dense = copy.deepcopy(dense)
    steps = [stepper(m) for m in (model, dense)]
    for seed in range(3):
        losses = [step(*batch(seed=seed, dtype=dtype)).loss for step in steps]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for site in linear_sites(model, "all"):
        a, b = model.get_submodule(site.name), dense.get_submodule(site.name)
        assert torch.allclose(a.adapter.B, b.adapter.B, rtol=1e-4, atol=1e-7) and a.adapter.B.any()
        assert torch.allclose(a.weight_factors()[0], b.weight_factors()[0], atol=1e-6)


def test_the_dense_weight_is_not_kept_for_the_backward_pass(kind):
    """A layer that is larger than its inputs: weights fall to their bits, and what is saved does not grow."""

    def peak(base):
        model = applied("timm_vit", "lora", base=base, scope="mlp")
        images, labels = batch(1)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        step = TrainStep(model, optimizer, None)
        with LiveMemory(model, optimizer, (images, labels)) as memory:
            step(images, labels)
        return memory.peak, paper_accounting(model, "mlp", images, 1)["memory/paper_inference_mib"] * 2**20

    (plain, counted), (quantized, small) = peak(None), peak(kind)
    numbers = 2 * 2 * 32 * 128
    scales = 4 * {"int8": 2 * (128 + 32), "nf4": numbers // 64 + 4 * 16}[kind]
    saved = 4 * numbers - numbers * {"int8": 8, "nf4": 4}[kind] // 8 - scales
    assert plain.weights - quantized.weights == saved == counted - small
    assert quantized.activations < plain.activations + 4 * 32 * 128  # one of the four weights


def test_in_autocast_no_dense_weight_is_kept_either(kind):
    """Of one row through a wide layer: what lives on after the forward pass is far smaller than the weight."""
    layer = QuantizedAdapterLinear(torch.randn(256, 256), None, 2, 4, torch.Generator(), kind)
    x = torch.randn(1, 256, requires_grad=True)
    held = sum(tensor.nbytes for tensor in [*layer.parameters(), *layer.buffers()])
    with LiveMemory(layer, inputs=x) as memory:
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        kept = memory.totals[-1] - held
    assert y.dtype == torch.bfloat16 and kept < 256 * 256 // 8
    y.sum().backward()
    exact = (layer.base.dense(torch.float32) + layer.adapter.scale * layer.adapter.B @ layer.adapter.A).sum(0)
    assert torch.allclose(x.grad[0], exact, atol=0.05 * exact.std().item())


def test_a_state_loads_and_follows_from_the_weights(kind):
    one, two = (applied("timm_vit", "lora", base=kind) for _ in range(2))
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key]), key
    stepper(one)(*batch())
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.eval()(batch()[0]), two.eval()(batch()[0]))


def test_another_base_is_refused():
    with pytest.raises(UserError, match="method.base=int4: allowed is int8, nf4 or null"):
        applied("timm_vit", "lora", base="int4")


def test_its_steps_are_counted_and_repeated_like_any(kind):
    """The products are LoRA's; checkpointing and accounting see nothing else."""
    images, labels = batch()
    plain, quantized = (applied("timm_vit", "lora", base=base) for base in (None, kind))
    other = copy.deepcopy(quantized)
    checkpoint_blocks(other)
    assert flops(stepper(plain), images, labels) == flops(stepper(quantized), images, labels)
    stepper(other)(images, labels)
    for a, b in zip(quantized.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
