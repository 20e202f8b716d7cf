import pytest
import torch

from tests.oracles import decaying
from wasi.linalg.rank import explained_rank, truncate, weight_rank


@pytest.mark.parametrize("epsilon, expected", [(0.4, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (1.0, 4)])
def test_smallest_rank_that_reaches_the_threshold(epsilon, expected):
    assert explained_rank(torch.tensor([5.0, 3.0, 1.5, 0.5]), epsilon) == expected


def test_full_rank_at_one_even_when_the_tail_vanishes():
    assert explained_rank(torch.tensor([1.0, 0.0, 0.0]), 1.0) == 3


@pytest.mark.parametrize("energies", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_zero_or_non_finite_is_refused(energies):
    with pytest.raises(ValueError):
        explained_rank(torch.tensor(energies), 0.5)


def weight(shape, decay):
    return decaying(*shape, decay=decay)  # at 0.3 the least are below what a Gram matrix can tell


SHAPES = [(60, 40), (40, 60), (50, 50)]
DECAYS = [1.0, 0.9, 0.3]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("epsilon", [0.5, 0.8, 0.99])
def test_truncation_is_the_best_one_of_its_rank(epsilon, decay, shape):
    w = weight(shape, decay)
    left, right = truncate(w, epsilon)
    k = left.shape[1]
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    assert torch.allclose(left.mT @ left, torch.eye(k, dtype=w.dtype), atol=1e-12)
    assert torch.allclose(left @ right, u[:, :k] * s[:k] @ vh[:k], atol=1e-12 * w.norm())
    assert torch.allclose(right @ right.mT, s[:k].square().diag(), atol=1e-12 * s[0].square())
    assert s[:k].square().sum() >= epsilon * s.square().sum() * (1 - 1e-9) > s[: k - 1].square().sum()
    assert weight_rank(w, epsilon) == k


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("rank", [1, 7, 40])
def test_a_rank_can_be_given(rank, decay, shape):
    w = weight(shape, decay)
    left, right = truncate(w, 0.5, rank)
    assert left.shape == (shape[0], rank) and right.shape == (rank, shape[1])
    discarded = torch.linalg.svdvals(w)[rank:].norm()
    assert (w - left @ right).norm() <= discarded + 1e-8 * w.norm()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_at_epsilon_one_the_weight_comes_back(dtype, tolerance, decay, shape):
    w = weight(shape, decay).to(dtype)
    left, right = truncate(w, 1.0)
    assert left.dtype == right.dtype == dtype and left.shape[1] == min(shape)
    assert (left @ right - w).norm() <= tolerance * w.norm()
    assert torch.allclose(left.mT @ left, torch.eye(min(shape), dtype=dtype), atol=10 * tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_weight_of_lower_rank_comes_back_from_orthonormal_factors(shape):
    w = weight(shape, 0.9)
    w = w[:, :2] @ w[:2]
    left, right = truncate(w, 1.0)
    assert (left @ right - w).norm() <= 1e-12 * w.norm()
    assert torch.allclose(left.mT @ left, torch.eye(min(shape), dtype=w.dtype), atol=1e-12)
