"""The thin step against the ordinary one on both factors, and against the dense Algorithm 1."""

import pytest
import torch

from tests.linalg.test_factored import pair, tangent_step
from tests.oracles import algorithm1_thin
from wasi.linalg.factored import tangent_gradient
from wasi.linalg.thin_step import Coordinates, lift, thin_step_
from wasi.linalg.thin_step import thin_tangent as tangent_of

DOUBLE = torch.float64
ZERO = torch.zeros((), dtype=DOUBLE)


def gradient(seed=3, r=3):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(11, r, dtype=DOUBLE, generator=generator))[0]
    return torch.randn(14, r, dtype=DOUBLE, generator=generator), basis


def thin_tangent(m, basis, left, right):
    return tangent_of(Coordinates(m, left.mT @ m), basis, lift(basis, right))


def step_(left, right, m, basis, lr, drift=ZERO):
    return thin_step_(left, right, thin_tangent(m, basis, left, right), lr, 0.0, drift)


def off_orthonormal(left):
    return (left.mT @ left - torch.eye(left.shape[1], dtype=DOUBLE)).norm()


def test_a_long_step_equals_that_on_both_factors():
    left, right = pair()
    m, basis = gradient()
    expected = tangent_step(left, right, m @ basis.mT, lr=5.0)
    moved = step_(left, right, m, basis, lr=5.0)
    assert torch.allclose(left @ right, expected[0] @ expected[1], atol=1e-10)
    assert torch.allclose(moved, off_orthonormal(left)) and moved > 1


def test_a_short_step_leaves_the_factor_orthonormal_to_fourth_order():
    m, basis = gradient()

    def off(lr):
        left, right = pair()
        bound = step_(left, right, m, basis, lr)
        assert off_orthonormal(left) <= bound * (1 + 1e-9)
        return off_orthonormal(left)

    assert 15.5 < off(2e-3) / off(1e-3) < 16.5
    assert off(1e-3) < 1e-8


@pytest.mark.parametrize("sign", [1, -1])
def test_what_has_drifted_is_taken_along_and_stays_bounded(sign):
    left, right = pair()
    left += 1e-3 * torch.randn(14, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(5))
    _, basis = gradient()
    first = drift = off_orthonormal(left)
    for _ in range(20):
        b = lift(basis, right).b
        m = sign * left @ b / b.norm().square()  # in the span of L: to second order, hardly anything is added
        drift = step_(left, right, m, basis, 0.01, drift)
        assert off_orthonormal(left) <= drift < 2 * first
    assert (off_orthonormal(left) > 1.02 * first) == (sign > 0)


def test_same_length_in_weight_space():
    left, right = pair()
    m, basis = gradient()
    dense = m @ basis.mT
    _, square = tangent_gradient(dense @ right.mT, left, right)
    assert torch.allclose(thin_tangent(m, basis, left, right).square, square + (left.mT @ dense).square().sum())


def test_weight_decay_acts_on_the_product_once():
    left, right = pair()
    product = left @ right
    tangent = thin_tangent(torch.zeros(14, 3, dtype=DOUBLE), gradient()[1], left, right)
    thin_step_(left, right, tangent, lr=0.1, weight_decay=0.5, drift=ZERO)
    assert torch.allclose(left @ right, 0.95 * product)


def test_rounding_of_many_short_steps_stays_within_the_drift():
    left, right = (t.float() for t in pair())
    m, basis = (t.float() for t in gradient())
    drift = first = off_orthonormal(left.double()).float()
    for _ in range(200):
        drift = step_(left, right, m, basis, 1e-6, drift)
        assert off_orthonormal(left.double()) <= drift
    assert first + 1e-5 < drift < 1e-4


def products(lr, m, basis):
    """`L R` after the thin step, after the step on both factors, and after Algorithm 1."""
    left, right = pair()
    step_(left, right, m, basis, lr)
    routes = (left, right), tangent_step(*pair(), m @ basis.mT, lr), algorithm1_thin(*pair(), m, basis, lr)
    return [left @ right for left, right in routes]


def test_what_keeps_the_factor_orthonormal_changes_the_product_to_second_order_as_told():
    m, basis = gradient()
    left, right = pair()
    tangent, lr = thin_tangent(m, basis, left, right), 1e-5
    thin, both, _ = products(lr, m, basis)
    b = tangent.b
    told = lr**2 / 2 * left @ b @ tangent.gram @ (basis.mT - b.mT @ right)
    assert torch.allclose((thin - both) / told.norm(), told / told.norm(), atol=1e-3)


def test_agrees_with_algorithm_1_to_second_order_and_better_than_the_step_on_both_factors(monkeypatch):
    monkeypatch.setattr("wasi.linalg.factored.DAMPING", 0.0)
    m, basis = gradient()

    def differences(lr):
        thin, both, dense = products(lr, m, basis)
        return (thin - dense).norm(), (both - dense).norm()

    once, half = differences(1e-4), differences(5e-5)
    assert 3.8 < once[0] / half[0] < 4.2
    assert half[0] < 0.85 * half[1]
