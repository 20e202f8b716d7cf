"""Batch modes that wait for each other."""

import gc

import pytest
import torch

from tests.oracles import decaying
from wasi.layers import batch_mode
from wasi.layers.activation import TuckerState
from wasi.layers.batch_mode import BatchMode
from wasi.layers.factored import FactoredLinear
from wasi.layers.tucker_linear import TuckerLinear
from wasi.linalg import tucker


@pytest.fixture
def decomposed(monkeypatch):
    """How many inputs each decomposition took."""
    sizes = []
    original = tucker.batch_factors

    def noted(rows, rank):
        sizes.append(len(rows))
        return original(rows, rank)

    monkeypatch.setattr(tucker, "batch_factors", noted)
    return sizes


def check(mode, x, rank):
    core, factor = mode.read()
    u = torch.linalg.svd(x.flatten(1))[0][:, :rank]
    assert torch.allclose(factor @ factor.mT, u @ u.mT, atol=1e-8)
    assert torch.allclose(core, torch.einsum("br,b...->r...", factor, x))


@pytest.mark.parametrize("shape", [(6, 3, 4), (20, 2, 3)])
def test_those_alike_are_decomposed_together_and_each_as_alone(decomposed, shape):
    inputs = [decaying(*shape), decaying(*shape).flip(0), decaying(*shape).flip(1)]
    other = decaying(7, 5)
    modes = [BatchMode(x, 2) for x in inputs]
    apart = BatchMode(other, 2)
    for mode, x in zip(reversed(modes), reversed(inputs), strict=True):
        check(mode, x, 2)
    assert decomposed == [3]
    check(apart, other, 2)
    assert decomposed == [3, 1]


def test_layers_wait_for_the_backward_pass(decomposed):
    x = decaying(6, 3, 4)
    weights = (torch.nn.Parameter(torch.randn(4, 4, dtype=x.dtype)) for _ in range(2))
    asi = [TuckerLinear(weight, None, [TuckerState(x, (2, 2, 2))]) for weight in weights]
    left, right = (torch.nn.Parameter(torch.eye(4, dtype=x.dtype)) for _ in range(2))
    wasi = FactoredLinear(left, right, None, [TuckerState(x, (2, 2, 2))])
    y = torch.nn.Sequential(*asi, wasi)(x)
    assert decomposed == []
    y.sum().backward()
    assert decomposed == [3]


def test_what_is_dropped_unread_is_not_decomposed(decomposed):
    kept, dropped = (BatchMode(decaying(6, 3, 4), 2) for _ in range(2))
    del dropped
    gc.collect()
    kept.read()
    assert decomposed == [1] and not batch_mode._waiting


def test_what_is_not_finite_fails_its_own_graph_only():
    x = decaying(6, 3, 4)
    good, bad = BatchMode(x, 2), BatchMode(x * torch.nan, 2)
    with pytest.raises(torch.linalg.LinAlgError):
        bad.read()
    later = BatchMode(x, 2)
    check(later, x, 2)
    check(good, x, 2)
