"""The layers against `nn.Linear` and against autograd through the reconstructed input."""

import copy

import pytest
import torch
from torch import nn

from tests.oracles import decaying, hosvd
from wasi.layers.activation import TuckerState, epsilon_ranks
from wasi.layers.factored import FactoredLinear
from wasi.layers.tucker_linear import TuckerLinear
from wasi.linalg.factored import with_bias_column
from wasi.linalg.rank import truncate
from wasi.linalg.tucker import expand

SHAPES = [(6, 9), (6, 5, 9), (4, 3, 5, 9)]


def factored(linear, epsilon, states=()):
    left, right = truncate(linear.weight, epsilon)
    return FactoredLinear(nn.Parameter(left), nn.Parameter(right), linear.bias, states)


def run(layer, x, grad):
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(grad)
    return y.detach(), x.grad


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("saved", ["dense", "full tucker"])
def test_full_rank_equals_linear(shape, saved):
    linear = nn.Linear(9, 7).double()
    x, grad = decaying(*shape), torch.randn(*shape[:-1], 7, dtype=torch.float64)
    states = [TuckerState(x, shape)] if saved == "full tucker" else []
    y, dx = run(linear, x, grad)
    dw, db = linear.weight.grad.clone(), linear.bias.grad.clone()
    layer = factored(linear, 1.0, states)
    y2, dx2 = run(layer, x, grad)
    close = dict(rtol=1e-10, atol=1e-12)
    assert torch.allclose(y, y2, **close) and torch.allclose(dx, dx2, **close)
    assert torch.allclose(db, layer.bias.grad, **close)
    assert torch.allclose(layer.L.grad, dw @ layer.R.mT, **close)
    assert torch.allclose(layer.R.grad, layer.L.mT @ dw, **close)
    dense = TuckerLinear(nn.Parameter(linear.weight.detach()), None, [TuckerState(x, shape)])
    _, dx3 = run(dense, x, grad)
    assert torch.allclose(dense.weight.grad, dw, **close) and torch.allclose(dx, dx3, **close)


@pytest.mark.parametrize("shape, ranks", [((6, 9), (2, 3)), ((6, 5, 9), (3, 2, 4)), ((4, 3, 5, 9), (2, 2, 3, 4))])
@pytest.mark.parametrize("kind", ["wasi", "asi"])
def test_low_rank_gradients_are_autograds_through_the_reconstructed_input(shape, ranks, kind):
    linear = nn.Linear(9, 7).double()
    x, grad = decaying(*shape), torch.randn(*shape[:-1], 7, dtype=torch.float64)
    state = TuckerState(x, ranks)
    core, factors = TuckerState(x, ranks).compress(x)
    seen = expand(core, factors)
    assert not torch.allclose(seen, x, rtol=1e-3)
    if kind == "wasi":
        layer = factored(linear, 0.7, [state])
        left, right = (p.detach().clone().requires_grad_() for p in (layer.L, layer.R))
        weight = left @ right
    else:
        layer = TuckerLinear(nn.Parameter(linear.weight.detach().clone()), linear.bias, [state])
        weight = left = linear.weight.detach().clone().requires_grad_()
    (seen @ weight.mT * grad).sum().backward()
    y, dx = run(layer, x, grad)
    assert torch.allclose(y, x @ weight.detach().mT + linear.bias.detach())
    assert torch.allclose(dx, grad @ weight.detach())
    if kind == "wasi":
        assert torch.allclose(layer.L.grad, left.grad) and torch.allclose(layer.R.grad, right.grad)
    else:
        assert torch.allclose(layer.weight.grad, left.grad)


def test_gradcheck_at_full_rank():
    linear = nn.Linear(5, 4).double()
    layer = factored(linear, 1.0)
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("shape, ranks", [((8, 6, 12), (3, 2, 4)), ((5, 4, 4, 10), (2, 2, 3, 4))])
def test_tracked_bases_reach_the_hosvd(shape, ranks):
    x = decaying(*shape)
    state = TuckerState(torch.randn(*shape, dtype=torch.float64), ranks)  # bases of something else

    def error():
        core, factors = state.compress(x)
        return (expand(core, factors) - x).norm()

    first = error()
    for _ in range(25):
        state.advance()
        last = error()
    best = (hosvd(x, ranks) - x).norm()
    assert last < 0.5 * first and last <= 1.05 * best


def test_advancing_is_one_subspace_iteration_on_the_whole_step():
    x = decaying(8, 6, 12)
    whole, parts = TuckerState(x, (8, 6, 4)), TuckerState(x, (8, 6, 4))
    y = torch.randn(8, 6, 12, dtype=torch.float64)
    start = whole.basis(2).clone()
    rows = y.reshape(-1, 12)
    expected = torch.linalg.qr(rows.mT @ (rows @ start))[0]
    whole.compress(y)
    for part in y.split(3):
        parts.compress(part)
    assert torch.equal(whole.basis(2), start)
    whole.advance(), parts.advance()
    assert torch.allclose(whole.basis(2) @ whole.basis(2).mT, expected @ expected.mT)
    assert torch.allclose(whole.basis(2), parts.basis(2), atol=1e-12)


def test_bases_move_in_their_turn_only():
    x = decaying(8, 6, 12)
    first, second = (TuckerState(x, (8, 6, 4), update_gap=3, phase=phase) for phase in (0, 2))
    moved = []
    for _ in range(6):
        before = [state.basis(2).clone() for state in (first, second)]
        for state in (first, second):
            state.compress(torch.randn(8, 6, 12, dtype=torch.float64))
            state.advance()
        moved.append([not torch.equal(b, s.basis(2)) for b, s in zip(before, (first, second), strict=True)])
    assert moved == [[True, False], [False, True], [False, False]] * 2


def test_whose_turn_it_is_survives_a_checkpoint():
    x = decaying(8, 6, 12)
    state, loaded = (TuckerState(x, (8, 6, 4), update_gap=2) for _ in range(2))
    state.compress(x)
    state.advance()
    loaded.load_state_dict(state.state_dict())
    for one in (state, loaded):
        one.compress(x)
        one.advance()
    assert torch.equal(state.basis(2), loaded.basis(2))


def test_too_few_rows_leave_a_basis_alone():
    x = decaying(8, 6, 12)
    state = TuckerState(x, (8, 6, 7))
    before = state.basis(2).clone()
    state.compress(x[:1])  # six rows for seven directions
    state.advance()
    assert torch.equal(state.basis(2), before)
    for _ in range(2):  # the same two images in two parts of one step are enough
        state.compress(x[:1])
    state.advance()
    assert not torch.equal(state.basis(2), before)


def test_any_batch_size_and_a_single_image():
    x = decaying(8, 6, 12)
    layer = factored(nn.Linear(12, 7).double(), 0.8, [TuckerState(x, (5, 3, 4))])
    for size in (8, 3, 1, 16, 8):
        y = layer(torch.randn(size, 6, 12, dtype=torch.float64, requires_grad=True))
        y.sum().backward()
        layer.advance()
    assert layer.L.grad.isfinite().all()


def test_another_image_size_starts_new_bases():
    layer = factored(nn.Linear(12, 7).double(), 0.8, [TuckerState(decaying(8, 6, 12), (5, 3, 4))])
    layer(torch.randn(8, 10, 12, dtype=torch.float64)).sum().backward()
    assert layer.states[0].basis(1).shape == (10, 3)


def test_evaluation_never_gathers():
    x = decaying(8, 6, 12)
    layer = factored(nn.Linear(12, 7).double(), 0.8, [TuckerState(x, (5, 3, 4))])
    before = layer.states[0].basis(2).clone()
    with torch.no_grad():
        layer(torch.randn(8, 6, 12, dtype=torch.float64))
    layer.advance()
    assert torch.equal(layer.states[0].basis(2), before)


def test_nothing_held_or_saved_is_as_large_as_weight_or_input():
    x = torch.randn(8, 10, 64)
    linear = nn.Linear(64, 96)
    layer = factored(linear, 0.3, [TuckerState(x, (3, 3, 8))])
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        layer(x.requires_grad_())
    assert sizes and max(sizes) < min(x.numel(), linear.weight.numel())
    held = [*layer.parameters(), *layer.buffers()]
    assert max(t.numel() for t in held) < min(x.numel(), linear.weight.numel())


def test_static_weights_stay_put():
    """Published defect 1: a new L must never meet the R of the old one."""
    layer = factored(nn.Linear(9, 7).double(), 0.7)
    product = (layer.L @ layer.R).detach().clone()
    for _ in range(4):
        layer.retract_()
    assert (layer.L @ layer.R - product).norm() < 1e-12 * product.norm()


def test_one_state_per_call():
    x, y = decaying(4, 3, 9), decaying(4, 3, 9, seed=1)
    layer = factored(nn.Linear(9, 9).double(), 0.9, [TuckerState(x, (2, 2, 3)), TuckerState(y, (2, 2, 3))])
    (layer(x).sum() + layer(y).sum()).backward()
    layer.advance()
    assert not torch.allclose(layer.states[0].basis(2), layer.states[1].basis(2))
    (layer(x).sum() + layer(y).sum()).backward()
    core, factors = layer.states[0].compress(x)
    assert torch.allclose(factors[2], layer.states[0].basis(2))


@pytest.mark.parametrize("epsilon", [0.4, 0.9, 1.0])
def test_epsilon_ranks_against_svd(epsilon):
    x = decaying(6, 5, 9)
    for mode, rank in enumerate(epsilon_ranks(x, epsilon)):
        e = torch.linalg.svdvals(x.movedim(mode, 0).reshape(x.shape[mode], -1)).square()
        expected = len(e) if epsilon == 1 else int((e.cumsum(0) < epsilon * e.sum()).sum()) + 1
        assert rank == expected


def test_the_bias_stays_beside_left_through_steps_and_loading():
    linear = nn.Linear(11, 14)
    layer = FactoredLinear(nn.Parameter(torch.randn(14, 4)), nn.Parameter(torch.randn(4, 11)), linear.bias)

    def both():
        return with_bias_column(layer.L.detach(), layer.bias.detach())

    def copied():
        return both().data_ptr() != layer.L.data_ptr()

    expected = torch.cat([layer.L, layer.bias[:, None]], 1).detach()
    assert torch.equal(both(), expected) and not copied()
    saved = layer.state_dict()
    assert all(t.is_contiguous() for t in saved.values())
    layer(torch.randn(3, 11)).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert not copied() and not torch.equal(both(), expected)
    layer.load_state_dict(saved)
    assert torch.equal(both(), expected) and not copied()
    moved = copy.deepcopy(layer)  # a copy may lie otherwise, and computes the same
    assert torch.equal(with_bias_column(moved.L.detach(), moved.bias.detach()), expected)


def test_layers_that_share_left_each_add_their_own_bias():
    left, right = nn.Parameter(torch.randn(14, 4)), nn.Parameter(torch.randn(4, 11))
    first, second = (FactoredLinear(left, right, nn.Parameter(torch.randn(14))) for _ in range(2))
    assert first.L is second.L
    x = torch.randn(3, 11)
    for layer in (first, second):
        torch.testing.assert_close(layer(x), nn.functional.linear(x, left @ right, layer.bias))
    assert with_bias_column(left.detach(), first.bias.detach()).data_ptr() == left.data_ptr()
