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
def test_a_number_that_is_not_finite_is_an_error_or_spoils_its_own_matrix_alone(value, on_cpu):
    matrices = [decaying(30, 10, seed=seed) for seed in (0, 1)]
    matrices[1][3, 4] = value
    if on_cpu:
        with pytest.raises(torch.linalg.LinAlgError):
            polar_factors(matrices)
    else:
        sound, broken = polar_factors(matrices)
        assert sound.isfinite().all() and broken.isnan().all()


@pytest.mark.parametrize("size", [1e-10, 1.0, 1e15])
@pytest.mark.parametrize(("condition", "error"), [(1.0, 1e-9), (1e2, 1e-9), (1e4, 1e-5), (1e6, 0.05), (1e9, 0.05)])
def test_the_roots_have_the_damping_that_is_stated(condition, error, size):
    u, v = (torch.linalg.qr(decaying(12, 12, seed=seed, decay=1.0))[0] for seed in (0, 1))
    values = size * torch.logspace(0, -torch.tensor(condition).log10().item(), 12, dtype=torch.float64)
    m = (u * values) @ v.mT
    gram = m.mT @ m
    for root, norm in ((inverse_root, values.max() ** 2), (halley_inverse_root, torch.linalg.matrix_norm(gram))):
        expected = (u * values / (values**2 + 1e-12 * norm).sqrt()) @ v.mT
        torch.testing.assert_close(m @ root(gram), expected, atol=error, rtol=0)
