"""The layers against `nn.Linear` and against autograd through the reconstructed input."""

from itertools import product

import pytest
import torch
from torch import nn

from tests.oracles import decaying, hosvd
from wasi.layers.activation import TuckerState, advance, epsilon_ranks
from wasi.layers.factored import FactoredLinear, fold_layers_, retract_layers_
from wasi.layers.tucker_linear import TuckerLinear
from wasi.linalg.rank import truncate
from wasi.linalg.subspace import algorithm_1
from wasi.linalg.tucker import expand

WEIGHT = decaying(10, 12, decay=0.8)
START = torch.linalg.svd(WEIGHT)[0][:, :5].mT  # leading left singular vectors
SHAPES = [(6, 9), (6, 5, 9), (4, 3, 5, 9)]


def factored(linear, epsilon, state=None):
    left, right = truncate(linear.weight, epsilon)
    return FactoredLinear(nn.Parameter(left), nn.Parameter(right), linear.bias, state)


def run(layer, x, grad):
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(grad)
    return y.detach(), x.grad


@pytest.mark.parametrize("shape, saved", [*product(SHAPES, ["dense", "full tucker"]), ((9,), "dense")])
def test_full_rank_equals_linear(shape, saved):
    linear = nn.Linear(9, 7).double()
    x, grad = decaying(1, *shape)[0], torch.randn(*shape[:-1], 7, dtype=torch.float64)
    state = TuckerState(x, shape) if saved == "full tucker" else None
    y, dx = run(linear, x, grad)
    dw, db = linear.weight.grad.clone(), linear.bias.grad.clone()
    layer = factored(linear, 1.0, state)
    y2, dx2 = run(layer, x, grad)
    close = dict(rtol=1e-10, atol=1e-12)
    assert torch.allclose(y, y2, **close) and torch.allclose(dx, dx2, **close)
    assert torch.allclose(db, layer.bias.grad, **close)
    assert torch.allclose(layer.L.grad, dw @ layer.R.mT, **close)
    assert torch.allclose(layer.R.grad, layer.L.mT @ dw, **close)
    dense = TuckerLinear(nn.Parameter(linear.weight.detach()), None, state)
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
        layer = factored(linear, 0.7, state)
        left, right = (p.detach().clone().requires_grad_() for p in (layer.L, layer.R))
        weight = left @ right
    else:
        layer = TuckerLinear(nn.Parameter(linear.weight.detach().clone()), linear.bias, state)
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
        seen_by(state, x)
        advance([state])
        last = error()
    best = (hosvd(x, ranks) - x).norm()
    assert last < 0.5 * first and last <= 1.05 * best


def seen_by(state, x):
    """A layer's forward and backward pass on `x`, which is when a basis learns of it."""
    size = x.shape[-1]
    layer = TuckerLinear(nn.Parameter(torch.eye(size, dtype=x.dtype)), None, state)
    layer(x).sum().backward()


def moves(state):
    """Whether any of its bases changes at the end of a step."""
    before = [basis.detach().clone() for basis in state.bases if basis is not None]
    advance([state])
    after = [basis for basis in state.bases if basis is not None]
    return not all(map(torch.equal, before, after))


def test_advancing_is_one_subspace_iteration_on_the_whole_step():
    x = decaying(8, 6, 12)
    whole, parts = TuckerState(x, (8, 6, 4)), TuckerState(x, (8, 6, 4))
    y = torch.randn(8, 6, 12, dtype=torch.float64)
    start = whole.basis_2.detach().clone()
    rows = y.reshape(-1, 12)
    expected = torch.linalg.qr(rows.mT @ (rows @ start))[0]
    seen_by(whole, y)
    for part in y.split(3):
        seen_by(parts, part)
    assert torch.equal(whole.basis_2, start)
    assert moves(whole) and moves(parts)
    assert torch.allclose(whole.basis_2 @ whole.basis_2.mT, expected @ expected.mT)
    assert torch.allclose(whole.basis_2, parts.basis_2, atol=1e-12)


def test_a_graph_that_is_dropped_and_a_pass_without_gradients_move_nothing():
    x = decaying(8, 6, 12)
    layer = factored(nn.Linear(12, 7).double(), 0.8, TuckerState(x, (8, 3, 4)))
    before = layer.state.basis_2.detach().clone()
    layer(torch.randn(8, 6, 12, dtype=torch.float64))
    with torch.no_grad():
        layer(torch.randn(8, 6, 12, dtype=torch.float64))
    assert not moves(layer.state)
    assert torch.equal(layer.state.basis_2, before)


def test_bases_move_in_their_turn_only():
    x = decaying(8, 6, 12)
    states = [TuckerState(x, (8, 6, 4), update_gap=3, phase=phase) for phase in (0, 2)]
    moved = []
    for _ in range(6):
        for state in states:
            seen_by(state, torch.randn(8, 6, 12, dtype=torch.float64))
        moved.append([moves(state) for state in states])
    assert moved == [[True, False], [False, True], [False, False]] * 2


def test_whose_turn_it_is_survives_a_checkpoint():
    x = decaying(8, 6, 12)
    state, loaded = (TuckerState(x, (8, 6, 4), update_gap=2) for _ in range(2))
    seen_by(state, x)
    advance([state])
    loaded.load_state_dict(state.state_dict())
    for one in (state, loaded):
        seen_by(one, x)
        assert not moves(one)
    assert torch.equal(state.basis_2, loaded.basis_2)


def test_too_few_rows_leave_a_basis_alone():
    x = decaying(8, 6, 12)
    state = TuckerState(x, (8, 6, 7))
    seen_by(state, x[:1])  # six rows for seven directions
    assert not moves(state)
    seen_by(state, x[:1])
    seen_by(state, x[1:2])  # two images in two parts of one step are enough
    assert moves(state)


def test_too_few_rows_leave_a_basis_alone_although_bfloat16_rounds_dependent_columns_apart():
    x = torch.randn(8, 17, 96)
    layer = factored(nn.Linear(96, 7), 0.8, TuckerState(x, (8, 17, 30)))
    before = layer.state.feature_basis.clone()
    with torch.autocast("cpu", torch.bfloat16):
        layer(x[:1]).float().sum().backward()  # 17 rows for 30 directions
    assert not moves(layer.state) and torch.equal(layer.state.feature_basis, before)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().sum().backward()
    assert moves(layer.state)


def test_any_batch_size_a_single_image_and_none():
    x = decaying(8, 6, 12)
    layer = factored(nn.Linear(12, 7).double(), 0.8, TuckerState(x, (5, 3, 4)))
    for size in (8, 3, 1, 0, 16, 8):
        y = layer(torch.randn(size, 6, 12, dtype=torch.float64, requires_grad=True))
        y.sum().backward()
        advance([layer.state])
    assert layer.L.grad.isfinite().all()


def test_ranks_above_a_mode_s_size_are_told_as_that_size():
    state = TuckerState(decaying(6, 5, 9), (16, 20, 4))
    assert state.ranks == (6, 5, 4) and [basis is None for basis in state.bases] == [True, False]
    assert state.stored_elements((8, 5, 9)) == 8 * 5 * 4 + 9 * 4


def test_a_batch_mode_that_is_whole_stays_whole_in_a_larger_batch():
    state = TuckerState(decaying(4, 6, 12), (4, 3, 5))
    core, factors = state.compress(torch.randn(9, 6, 12, dtype=torch.float64))
    assert core.shape == (9, 3, 5) and factors[0] is None and state.ranks == (4, 3, 5)
    assert state.stored_elements((9, 6, 12)) == 9 * 3 * 5 + 6 * 3 + 12 * 5
    core, factors = TuckerState(decaying(4, 6, 12), (2, 3, 5)).compress(torch.randn(9, 6, 12, dtype=torch.float64))
    assert core.shape == (2, 3, 5) and factors[0].shape == (9, 2)


def test_another_image_size_keeps_its_tokens_whole():
    layer = factored(nn.Linear(12, 7).double(), 0.8, TuckerState(decaying(8, 6, 12), (8, 3, 12)))
    x, grad = torch.randn(8, 10, 12, dtype=torch.float64), torch.randn(8, 10, 7, dtype=torch.float64)
    run(layer, x, grad)
    dw = grad.reshape(-1, 7).mT @ x.reshape(-1, 12)
    assert torch.allclose(layer.R.grad, layer.L.mT @ dw)


def test_nothing_held_or_saved_is_as_large_as_weight_or_input():
    x = torch.randn(8, 10, 64)
    linear = nn.Linear(64, 96)
    layer = factored(linear, 0.3, TuckerState(x, (3, 3, 8)))
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
        retract_layers_([layer])
    assert (layer.L @ layer.R - product).norm() < 1e-12 * product.norm()


def test_bases_of_a_layer_that_is_moved_or_converted_are_updated():
    x = decaying(4, 3, 9)
    layer = factored(nn.Linear(9, 9).double(), 0.9, TuckerState(x, (4, 3, 3))).float().double()
    layer(x).sum().backward()
    assert layer.state.feature_basis.is_leaf and layer.state.feature_basis.grad is not None
    layer.state.update_gap = 2
    advance([layer.state])
    assert not layer.double().state.feature_basis.requires_grad


def test_calls_of_one_layer_share_its_bases_and_coordinates():
    x, y = decaying(4, 3, 9), decaying(4, 3, 9, seed=1)
    layer = factored(nn.Linear(9, 9).double(), 0.9, TuckerState(x, (4, 3, 3)))
    assert layer.use_coordinates()
    basis = layer.state.feature_basis.detach().clone()
    (layer(x).sum() + layer(y).sum()).backward()
    rows = torch.cat([x, y]).reshape(-1, 9)
    assert torch.allclose(layer.C.grad, torch.ones(len(rows), 9, dtype=torch.float64).mT @ rows @ basis)
    advance([layer.state])
    expected = torch.linalg.qr(rows.mT @ (rows @ basis))[0]
    assert torch.allclose(layer.state.feature_basis @ layer.state.feature_basis.mT, expected @ expected.mT)


def test_coordinates_hold_no_memory_and_fold_to_a_step_of_algorithm_1():
    x, grad = decaying(8, 6, 12), torch.randn(8, 6, 10, dtype=torch.float64)
    differences = []
    for lr in (4e-3, 2e-3):
        left, right = nn.Parameter(START.mT.contiguous()), nn.Parameter(START @ WEIGHT)
        layer = FactoredLinear(left, right, None, TuckerState(x, (8, 3, 4)))
        assert layer.use_coordinates() and layer.C.untyped_storage().nbytes() == 8
        run(layer, x, grad)
        assert layer.L.grad is None and layer.R.grad is None
        core, factors = layer.state.compress(x)
        d_weight = grad.reshape(-1, 10).mT @ expand(core, factors).reshape(-1, 12)
        assert torch.allclose(layer.C.grad @ layer.state.feature_basis.mT, d_weight)
        left, right = algorithm_1(layer.L.detach(), layer.R.detach(), d_weight, lr)
        layer.C.data = -lr * layer.C.grad
        fold_layers_([layer], [1.0])
        differences.append((layer.L @ layer.R - left @ right).norm().item())
        assert layer.C.untyped_storage().nbytes() == 8
    assert 3.5 < differences[0] / differences[1] < 4.5


def test_coordinates_are_converted_with_their_layer_between_steps_and_within_one():
    x = decaying(8, 6, 12)
    layer = factored(nn.Linear(12, 10).double(), 0.9, TuckerState(x, (8, 3, 3)))
    assert layer.use_coordinates()
    held = layer.C
    layer.float()
    assert layer.C is held and held.dtype == torch.float32
    assert not layer.has_pending_step and held.untyped_storage().nbytes() == 4
    layer(x.float()).sum().backward()
    held.data = -0.1 * held.grad
    step = held.detach().double()
    layer.double()
    assert layer.has_pending_step and torch.equal(held, step) and held.grad.dtype == torch.float64
    before = (layer.L @ layer.R).detach()
    fold_layers_([layer], [1.0])
    assert not layer.has_pending_step and not torch.equal(layer.L @ layer.R, before)
    layer(x).sum().backward()
    assert held.grad.dtype == torch.float64


@pytest.mark.parametrize("epsilon", [0.4, 0.9, 1.0])
def test_epsilon_ranks_against_svd(epsilon):
    x = decaying(6, 5, 9)
    assert epsilon_ranks(x, epsilon, "whole") == (6, *epsilon_ranks(x, epsilon, "cut")[1:])
    assert epsilon_ranks(x, epsilon, "whole", 1.0) == (6, 5, epsilon_ranks(x, epsilon, "cut")[2])
    for mode, rank in enumerate(epsilon_ranks(x, epsilon, "cut")):
        e = torch.linalg.svdvals(x.movedim(mode, 0).reshape(x.shape[mode], -1)).square()
        expected = len(e) if epsilon == 1 else int((e.cumsum(0) < epsilon * e.sum()).sum()) + 1
        assert rank == expected


@pytest.mark.parametrize("kind", [FactoredLinear, TuckerLinear])
def test_a_second_derivative_is_refused(kind):
    """What is kept of the input is a constant to autograd, so it would be wrong."""
    x = decaying(8, 6, 12).requires_grad_()
    linear, state = nn.Linear(12, 7).double(), TuckerState(x, (8, 3, 4))
    layer = factored(linear, 0.8, state) if kind is FactoredLinear else TuckerLinear(linear.weight, linear.bias, state)
    (found,) = torch.autograd.grad(layer(x).square().sum(), [layer.bias], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        found.sum().backward()
