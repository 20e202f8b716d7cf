import pytest
import torch

from wasi.linalg.rank import explained_rank, truncate


@pytest.mark.parametrize("epsilon, expected", [(0.4, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (1.0, 4)])
def test_smallest_rank_that_reaches_the_threshold(epsilon, expected):
    assert explained_rank(torch.tensor([5.0, 3.0, 1.5, 0.5]), epsilon) == expected


def test_full_rank_at_one_even_when_the_tail_vanishes():
    assert explained_rank(torch.tensor([1.0, 0.0, 0.0]), 1.0) == 3


@pytest.mark.parametrize("energies", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_zero_or_non_finite_is_refused(energies):
    with pytest.raises(ValueError):
        explained_rank(torch.tensor(energies), 0.5)


@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_truncation_is_the_best_one_of_its_rank(shape):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, right = truncate(w, 0.8)
    k = left.shape[1]
    s = torch.linalg.svdvals(w)
    assert torch.allclose(left.mT @ left, torch.eye(k, dtype=w.dtype))
    assert torch.allclose((w - left @ right).norm().square(), s[k:].square().sum())
    assert s[:k].square().sum() >= 0.8 * s.square().sum() > s[: k - 1].square().sum()


def test_epsilon_one_keeps_the_weight():
    w = torch.randn(6, 9, dtype=torch.float64)
    left, right = truncate(w, 1.0)
    assert torch.allclose(left @ right, w)
