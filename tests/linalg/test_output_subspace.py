"""The leading output directions, against plain eigenvectors of `W C W^T` and against other subspaces."""

import pytest
import torch

from tests.oracles import decaying
from wasi.linalg.output_subspace import RIDGE, basis_from_inputs, basis_from_outputs

SHAPES = [(12, 7), (7, 12), (9, 9)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def from_inputs(w, c, ridge, rank):
    return basis_from_inputs(w, c, ridge, rank)


def from_outputs(w, c, ridge, rank):
    return basis_from_outputs(w, w @ c @ w.mT, ridge, rank)


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
