"""The paper's published numbers to the digit, and the formulas for layers that a method put in."""

import pytest
import torch
import torchvision
from torch import nn

from wasi.layers.activation import TuckerState
from wasi.layers.adapter import AdapterLinear, FactoredAdapterLinear
from wasi.layers.factored import FactoredLinear
from wasi.measure.accounting import paper_accounting
from wasi.models.attention import unpack_attention
from wasi.models.structure import linear_sites

MIB = 1024**2 / 4  # fp32 numbers in a MiB


@pytest.mark.parametrize(
    ("scope", "train", "inference"), [("mlp", 1341.0, 216.0), ("attention", 1008.0, 108.0), ("all", 2349.0, 324.0)]
)
def test_vit_b_32_as_published(scope, train, inference):
    model = torchvision.models.vit_b_32()
    got = paper_accounting(model, scope, torch.zeros(1, 3, 224, 224), 128)
    assert got == {"memory/paper_train_mib": train, "memory/paper_inference_mib": inference}


def test_swin_windows_with_and_without_opened_attention():
    """2 stages of 56 x 56 x 96 and 28 x 28 x 192, both multiples of the window: no padding."""
    model = torchvision.models.SwinTransformer([4, 4], 96, [1, 1], [3, 6], [7, 7], num_classes=4)
    maps = [(56 * 56, 96), (28 * 28, 192)]
    weights = sum(12 * c * c for _, c in maps)
    stored = sum(8 * n * c * (3 + 1 + 1 + 4) for n, c in maps)  # q, k and v; proj; both of the MLP
    expected = {"memory/paper_train_mib": (weights + stored) / MIB, "memory/paper_inference_mib": weights / MIB}
    images = torch.zeros(2, 3, 224, 224)
    assert paper_accounting(model, "all", images, 8) == expected
    unpack_attention(model)
    assert paper_accounting(model, "all", images, 8) == expected


def tiny_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=4)


def replace(model: nn.Module, scope: str, make) -> nn.Module:
    for site in linear_sites(unpack_attention(model), scope):
        parent, _, child = site.name.rpartition(".")
        setattr(model.get_submodule(parent), child, make(model.get_submodule(site.name)))
    return model


def site_sum(count) -> int:
    """Sum of `count(inputs, outputs, copies)` over the four linears of the two blocks of `tiny_vit`."""
    return 2 * (count(32, 96, 3) + count(32, 32, 1) + count(32, 64, 1) + count(64, 32, 1))


def test_wasi_layers_count_factors_core_and_bases():
    def make(linear):
        o, i = linear.weight.shape
        left, right = nn.Parameter(torch.eye(o)[:, :5].clone()), nn.Parameter(torch.randn(5, i))
        return FactoredLinear(left, right, linear.bias, TuckerState(torch.randn(16, 17, i), (3, 4, 6)))

    model = replace(tiny_vit(), "all", make)
    weights = site_sum(lambda i, o, _: 5 * (i + o))
    stored = site_sum(lambda i, o, copies: copies * (3 * 4 * 6 + 16 * 3 + 17 * 4 + i * 6))
    got = paper_accounting(model, "all", torch.zeros(1, 3, 32, 32), 16)
    assert got == {"memory/paper_train_mib": (weights + stored) / MIB, "memory/paper_inference_mib": weights / MIB}


def test_adapters_count_beside_the_frozen_weight():
    generator = torch.Generator().manual_seed(0)
    model = replace(tiny_vit(), "mlp", lambda m: AdapterLinear(m.weight, m.bias, 2, 4, generator))
    weights = 2 * 2 * (32 * 64 + 2 * (32 + 64))
    stored = 2 * 16 * 17 * (32 + 64 + 2 * 2)  # inputs, and what the second adapter matrix sees
    got = paper_accounting(model, "mlp", torch.zeros(1, 3, 32, 32), 16)
    assert got == {"memory/paper_train_mib": (weights + stored) / MIB, "memory/paper_inference_mib": weights / MIB}


def test_adapted_factors_count_inputs_of_every_trainable_matrix():
    generator = torch.Generator().manual_seed(0)

    def make(linear):
        o, i = linear.weight.shape
        return FactoredAdapterLinear(torch.randn(o, 5), torch.randn(5, i), linear.bias, 2, 4, generator)

    model = replace(tiny_vit(), "mlp", make)
    weights = 2 * sum(5 * (i + o) + 2 * (i + 5) + 2 * (5 + o) for i, o in [(32, 64), (64, 32)])
    stored = 2 * 16 * 17 * ((32 + 64) + 2 * (5 + 2 + 2))
    got = paper_accounting(model, "mlp", torch.zeros(1, 3, 32, 32), 16)
    assert got == {"memory/paper_train_mib": (weights + stored) / MIB, "memory/paper_inference_mib": weights / MIB}


def test_tied_and_reused_linears():
    """A weight counts once; the input of every call counts."""
    model = tiny_vit()
    first, second = model.encoder.layers.encoder_layer_0.mlp, model.encoder.layers.encoder_layer_1.mlp
    second[0].weight = first[0].weight
    got = paper_accounting(model, "mlp", torch.zeros(1, 3, 32, 32), 2)
    assert got["memory/paper_inference_mib"] == 3 * 32 * 64 / MIB
    assert got["memory/paper_train_mib"] == (3 * 32 * 64 + 2 * 2 * 17 * (32 + 64)) / MIB
