"""Polar factors against an SVD, in the forms for a CPU and for accelerators."""

import pytest
import torch

from tests.oracles import decaying
from wasi.linalg import batched
from wasi.linalg.polar import halley_inverse_root, inverse_root, polar_factors


@pytest.fixture(params=["cpu", "accelerator"])
def on_cpu(request, monkeypatch):
    monkeypatch.setattr(batched, "is_on_cpu", lambda a: request.param == "cpu")
    return request.param == "cpu"


@pytest.mark.parametrize("shape", [(20, 4), (5, 5)])
def test_against_an_svd(shape, on_cpu):
    m = decaying(*shape, decay=0.7)
    u, _, vh = torch.linalg.svd(m, full_matrices=False)
    assert torch.allclose(polar_factors([m])[0], u @ vh, atol=1e-6)


def test_several_matrices_are_as_one_by_one_in_their_own_type(on_cpu):
    matrices = [decaying(20, 4).float(), decaying(9, 7, seed=1).float(), torch.zeros(6, 2)]
    found = polar_factors(matrices)
    for m, polar in zip(matrices, found, strict=True):
        u, s, vh = torch.linalg.svd(m.double(), full_matrices=False)
        torch.testing.assert_close(polar, ((u * (s > 0)) @ vh).float(), atol=1e-5, rtol=0)
    assert polar_factors([]) == []


def test_a_direction_of_pure_rounding_is_not_raised(on_cpu):
    m = torch.cat([decaying(20, 3), 1e-9 * decaying(20, 1, seed=3)], 1)
    assert torch.linalg.svdvals(polar_factors([m])[0])[-1] < 0.1
    assert not polar_factors([torch.zeros(4, 2)])[0].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_spoils_its_own_matrix_alone(value, on_cpu):
    sound, broken = polar_factors([decaying(6, 2), decaying(6, 2).fill_(value)])
    assert sound.isfinite().all() and broken.isnan().all()


@pytest.mark.parametrize("size", [1e-10, 1.0, 1e15])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_the_iteration_reaches_the_root_of_the_eigendecomposition(condition, size):
    u, v = (torch.linalg.qr(decaying(12, 12, seed=seed, decay=1.0))[0] for seed in (0, 1))
    m = size * (u * torch.logspace(0, -torch.tensor(condition).log10().item(), 12, dtype=torch.float64)) @ v.mT
    gram = m.mT @ m
    torch.testing.assert_close(m @ halley_inverse_root(gram), m @ inverse_root(gram), atol=3e-12 * condition**2, rtol=0)
