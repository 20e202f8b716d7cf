"""The leading output directions, against plain eigenvectors of `W C W^T` and against other subspaces.

And the best weight of a rank where outputs are weighed as well, against the truncated `S^1/2 W C^1/2` and against
other weights.
"""

import pytest
import torch

from tests.oracles import decaying, weighted_truncation
from wasi.linalg.output_subspace import RIDGE, project

SHAPES = [(12, 7), (7, 12), (9, 9)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def from_inputs(w, c, ridge, rank):
    return project(w, c, torch.zeros(()), ridge, torch.ones(()), False, rank)[0]


def from_outputs(w, c, ridge, rank):
    return project(w, w @ c @ w.mT, torch.zeros(()), ridge, torch.ones(()), True, rank)[0]


WAYS = [from_inputs, from_outputs]


def projector(left):
    return left @ left.mT


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_projection_of_its_rank_loses_less_of_the_outputs(shape, way):
    w, x = random(*shape), decaying(40, shape[1], seed=1)
    rank = 3
    left = way(w, x.mT @ x / 40, RIDGE * x.square().mean(), rank)

    def error(basis):
        return (x @ w.mT - x @ w.mT @ projector(basis)).square().sum() / 40

    assert torch.allclose(left.mT @ left, torch.eye(rank, dtype=w.dtype))
    energies = torch.linalg.eigvalsh(w @ x.mT @ x @ w.mT / 40)
    assert torch.allclose(error(left), energies[:-rank].sum(), rtol=1e-5)
    others = [torch.linalg.qr(random(shape[0], rank, seed=seed))[0] for seed in range(20)]
    assert all(error(left) < error(other) for other in [torch.linalg.svd(w)[0][:, :rank], *others])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_inputs_without_a_preference_give_the_weights_own_subspace(shape, way):
    w = random(*shape)
    left = way(w, 5 * torch.eye(shape[1], dtype=w.dtype), 5 * RIDGE, 4)
    assert torch.allclose(projector(left), projector(torch.linalg.svd(w)[0][:, :4]))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [0, 1, 2])
def test_what_few_rows_leave_open_is_filled_by_the_weights_energy(shape, rows, way):
    w, x = random(*shape), random(rows, shape[1], seed=2)
    left = way(w, x.mT @ x, RIDGE * max(x.square().sum().item(), 1.0), 5)
    assert torch.allclose(left.mT @ left, torch.eye(5, dtype=w.dtype))
    touched = torch.linalg.qr(w @ x.mT)[0]
    residual = w - projector(touched) @ w
    expected = torch.cat([touched, torch.linalg.svd(residual)[0][:, : 5 - rows]], 1)
    assert torch.allclose(projector(left), projector(expected), atol=1e-4)


@pytest.mark.parametrize("shape, way", [((12, 7), from_inputs), ((7, 12), from_outputs), ((9, 9), from_outputs)])
def test_full_rank_loses_nothing(shape, way):
    w, x = random(*shape), random(3, shape[1], seed=3)
    left = way(w, x.mT @ x, RIDGE, min(shape))
    assert torch.allclose(projector(left) @ w, w, atol=1e-12)


def by_inputs(w, c, s, ridge, damping, rank):
    return project(w, c, w.mT @ s @ w, ridge, damping, False, rank)


def by_outputs(w, c, s, ridge, damping, rank):
    return project(w, w @ c @ w.mT, s, ridge, damping, True, rank)


BOTH_WAYS = [((12, 7), by_inputs), ((7, 12), by_outputs), ((9, 9), by_inputs), ((9, 9), by_outputs)]


def moments(o, i):
    """`C` and `S` of plenty of rows."""
    x, g = decaying(40, i, seed=1, decay=0.9), decaying(40, o, seed=2, decay=0.9)
    return x.mT @ x / 40, g.mT @ g / 40


def plus(matrix, value):
    return matrix + value * torch.eye(len(matrix), dtype=matrix.dtype)


@pytest.mark.parametrize("shape, way", BOTH_WAYS)
def test_no_weight_of_its_rank_is_nearer_in_the_weighted_norm(shape, way):
    w, (c, s), rank = random(*shape), moments(*shape), 3
    ridge, damping = 1e-3 * c.trace(), 1e-2 * s.trace()
    left, right = way(w, c, s, ridge, damping, rank)
    c, s = plus(c, ridge), plus(s, damping)

    def error(other):
        return torch.trace(s @ (other - w) @ c @ (other - w).mT)

    assert left.shape == (shape[0], rank) and right.shape == (rank, shape[1])
    assert torch.allclose(left.mT @ left, torch.eye(rank, dtype=w.dtype))
    best = weighted_truncation(w, s, c, rank)
    assert torch.allclose(left @ right, best, atol=1e-9)
    energies = torch.linalg.eigvals(s @ w @ c @ w.mT).real.sort(descending=True)[0]
    assert torch.allclose(error(left @ right), energies[rank:].sum())
    u, values, vh = torch.linalg.svd(w, full_matrices=False)
    others = [u[:, :rank] * values[:rank] @ vh[:rank], left @ left.mT @ w]
    for seed in range(20):
        basis = torch.linalg.qr(random(shape[0], rank, seed=seed))[0]
        others.append(basis @ torch.linalg.solve(basis.mT @ s @ basis, basis.mT @ s @ w))  # the best in its span
        near = left + 1e-2 * random(*left.shape, seed=seed), right + 1e-2 * random(*right.shape, seed=seed + 20)
        others.append(near[0] @ near[1])
    assert all(error(left @ right) < error(other) for other in others)


def test_both_ways_agree_where_both_apply():
    w, (c, s) = random(9, 9), moments(9, 9)
    c, s = c * 3, s / 7  # in units of their own
    (left, right), (other, by_other) = (way(w, c, s, 1e-3, 1e-2, 4) for way in (by_inputs, by_outputs))
    assert torch.allclose(projector(left), projector(other)) and torch.allclose(left @ right, other @ by_other)


@pytest.mark.parametrize("shape, way", BOTH_WAYS)
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_at_full_rank_the_weight_comes_back(shape, rows, way):
    w, x, g = random(*shape), random(rows, shape[1], seed=3), random(rows, shape[0], seed=4)
    left, right = way(w, x.mT @ x, g.mT @ g, RIDGE * x.square().mean(), 0.1 * g.square().mean(), min(shape))
    assert torch.allclose(left.mT @ left, torch.eye(min(shape), dtype=w.dtype))
    assert torch.allclose(left @ right, w, atol=1e-9)


@pytest.mark.parametrize("shape, way", BOTH_WAYS)
def test_outputs_that_weigh_alike_leave_the_leading_subspace(shape, way):
    """With `S` a multiple of the identity, damping included, it is `L L^T W` of the leading output directions."""
    w, (c, _) = random(*shape), moments(*shape)
    ridge = RIDGE * c.trace()
    leading = torch.linalg.eigh(w @ plus(c, ridge) @ w.mT)[1][:, -4:]
    for scale, damping in ((1.0, 0.0), (1.0, 0.5), (0.0, 2.0)):
        left, right = way(w, c, scale * torch.eye(shape[0], dtype=w.dtype), ridge, damping, 4)
        assert torch.allclose(projector(left), projector(leading), atol=1e-9)
        assert torch.allclose(left @ right, projector(leading) @ w, atol=1e-9)
