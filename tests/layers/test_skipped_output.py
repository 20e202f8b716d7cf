"""A repetition that leaves its last product out has the gradients of one that does not, bit for bit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.small import METHODS, applied, has_own_layers
from wasi.layers.base import LowRankLayer
from wasi.layers.quantized import QuantizedAdapterLinear
from wasi.layers.skipped_output import GraphOnlyRepetition, convolution_graph, linear
from wasi.layers.svd_linear import SvdLinear


def gradients(y, *tensors):
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad(y, tensors, direction)


@pytest.mark.parametrize("x", [torch.randn(3, 5, 12), torch.randn(15, 12), torch.randn(12, 15).mT])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [(), (0,), (1,)])
def test_the_graph_of_a_linear_layer_is_its_own(bias, frozen, x):
    torch.manual_seed(0)
    x, weight = x.clone(), torch.randn(7, 12)
    tensors = [x, weight, torch.randn(7) if bias else None]
    trained = [t.requires_grad_() for place, t in enumerate(tensors) if t is not None and place not in frozen]
    expected = gradients(F.linear(*tensors), *trained)
    y = linear(*tensors, output_needed=False)
    assert y.shape == (*x.shape[:-1], 7) and not y.any()
    for a, b in zip(gradients(y, *trained), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"stride": 2, "padding": 1, "dilation": 2}, {"groups": 3}])
def test_the_graph_of_a_convolution_is_its_own(options):
    torch.manual_seed(0)
    layer, x = nn.Conv2d(3, 9, (4, 3), **{"stride": 4, **options}), torch.randn(2, 3, 17, 16)
    y, graph = layer(x), convolution_graph(layer)(x)
    assert graph.shape == y.shape and not graph.any()
    for a, b in zip(gradients(graph, *layer.parameters()), gradients(y, *layer.parameters()), strict=True):
        assert torch.equal(a, b)


def test_a_convolution_of_another_kind_is_left_alone():
    replaced = nn.Conv2d(3, 8, 3)
    replaced.forward = lambda x: x
    for layer in (nn.Conv2d(3, 8, 3, padding="same"), nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), replaced):
        assert convolution_graph(layer) is None


class Block(nn.Module):
    """`x + behind(fc2(gelu(fc1(x))))`."""

    def __init__(self, behind=lambda block, y: y):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.ones(8))
        self.behind = behind

    def forward(self, x):
        return x + self.behind(self, self.fc2(F.gelu(self.fc1(x))))


def repeated(block, x):
    """Output and gradients of the first repetition, of the second, and the layer that was left out there."""
    repetition, found = GraphOnlyRepetition([block]), []
    for _ in range(2):
        with repetition():
            y = block(x)
        block.zero_grad()
        y.backward(torch.ones_like(y) * x)
        found.append((y, [p.grad.clone() for p in block.parameters() if p.grad is not None]))
    return *found, repetition.layer


def test_the_last_layer_is_left_out_and_is_itself_again_afterwards():
    block, x = Block(), torch.randn(2, 3, 8)
    (y, first), (other, second), layer = repeated(block, x)
    assert layer is block.fc2
    assert torch.equal(other, x) and not torch.equal(y, x)
    assert first and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert "forward" not in vars(block.fc2) and torch.equal(block(x), y)


@pytest.mark.parametrize(
    "behind",
    [
        lambda block, y: y * block.scale,  # LayerScale, whose own gradient needs `y`
        lambda block, y: F.dropout(y, 0.5),
        lambda block, y: y.tanh(),
        lambda block, y: block.fc2(F.pad(y, (0, 8))),  # called twice
    ],
)
def test_nothing_is_left_out_where_something_behind_keeps_a_tensor(behind):
    block, x = Block(behind), torch.randn(2, 3, 8)
    (_, first), (_, second), layer = repeated(block, x)
    assert layer is None and len(first) == len(second)


@pytest.mark.parametrize("kind", ["forward replaced", "hook", "subclass"])
def test_nothing_is_left_out_of_a_layer_that_somebody_changed(kind):
    class Gain(SvdLinear):
        def forward(self, x):
            return super().forward(x) * gain

    block, gain = Block(), nn.Parameter(torch.ones(8))
    if kind == "forward replaced":
        original = block.fc2.forward
        block.fc2.forward = lambda x: original(x) * gain
    elif kind == "hook":
        block.fc2.register_forward_hook(lambda layer, args, output: output * gain)
    else:
        block.fc2 = Gain(block.fc2.weight, 8, block.fc2.bias)
    block.gain, changed = gain, vars(block.fc2).get("forward")
    (_, first), (_, second), layer = repeated(block, torch.randn(2, 3, 8))
    assert layer is None and vars(block.fc2).get("forward") is changed
    assert all(a.any() and torch.equal(a, b) for a, b in zip(first[-1:], second[-1:], strict=True))


def test_the_name_of_a_layers_argument_may_be_given():
    block = Block(lambda block, y: y)
    block.forward = lambda x: x + block.fc2(input=F.gelu(block.fc1(input=x)))
    *_, layer = repeated(block, torch.randn(2, 3, 8))
    assert layer is block.fc2


def test_a_layer_that_cannot_leave_its_output_out_hides_the_one_before():
    class Whole(LowRankLayer):
        def __init__(self):
            super().__init__(8, 8)

        def forward(self, x):
            return x + 1  # keeps nothing that autograd would tell of

    block = Block()
    block.whole = Whole()
    block.behind = lambda block, y: block.whole(y)
    *_, layer = repeated(block, torch.randn(2, 3, 8))
    assert layer is None


def test_a_quantised_layer_is_left_out_too():
    block = Block()
    block.fc2 = QuantizedAdapterLinear(block.fc2.weight, block.fc2.bias, 2, 4, torch.Generator(), "int8")
    nn.init.ones_(block.fc2.adapter.B)
    x = torch.randn(2, 3, 8)
    (_, first), (other, second), layer = repeated(block, x)
    assert layer is block.fc2 and torch.equal(other, x)
    assert first and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["torchvision_vit", "timm_vit"])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "linear_probe"])  # which trains no block
def test_every_methods_last_layer(name, method):
    model = applied(name, method)
    block = model.blocks[-1] if name == "timm_vit" else model.encoder.layers[-1]
    x = torch.randn(8, 17, 32)
    block.train()
    repetition, found, outputs = GraphOnlyRepetition([block]), [], {}
    for module in block.modules():
        module.register_forward_hook(lambda module, args, output: outputs.update({module: output}))
    for _ in range(2):
        block.zero_grad()
        with repetition():
            y = block(x)
        y.backward(torch.ones_like(y) * x)
        found.append([p.grad for p in block.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    if not has_own_layers(model):
        assert repetition.layer is not None and not outputs[repetition.layer].any()
