import pytest
import torch

from wasi.linalg.angles import left_spectrum, principal_angles

DOUBLE = torch.float64


@pytest.mark.parametrize("degrees", [(0.0, 0.0), (1e-6, 30.0), (45.0, 90.0), (89.999999, 90.0)])
def test_planes_turned_by_known_angles(degrees):
    basis = torch.linalg.qr(torch.randn(9, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)))[0]
    theta = torch.deg2rad(torch.tensor(degrees, dtype=DOUBLE))
    a = basis[:, :2]
    b = a * theta.cos() + basis[:, 2:] * theta.sin()
    mixed = b @ torch.linalg.qr(torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=DOUBLE))[0]  # the same span
    assert torch.allclose(principal_angles(a, mixed), torch.tensor(degrees, dtype=DOUBLE), atol=1e-9)


def test_spectrum_of_a_product_is_that_of_the_dense_matrix():
    left, right = torch.randn(9, 4, dtype=DOUBLE), torch.randn(4, 7, dtype=DOUBLE)
    u, s = left_spectrum(left, right)
    dense_u, dense_s = left_spectrum(left @ right)
    assert torch.allclose(s, dense_s[:4]) and torch.allclose(s, torch.linalg.svdvals(left @ right)[:4])
    assert principal_angles(u[:, :2], dense_u[:, :2]).max() < 1e-6
