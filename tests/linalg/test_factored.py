"""The weight step against the dense Algorithm 1 and against autograd."""

import pytest
import torch

from tests.oracles import algorithm1_dense, algorithm1_thin, decaying
from wasi.linalg.factored import factor_gradients, product, rank_gradient, retract, tangent_gradient
from wasi.linalg.tucker import row_sum

DOUBLE = torch.float64


def pair(o=14, i=11, k=4, seed=0):
    u, s, vh = torch.linalg.svd(decaying(o, i, seed=seed), full_matrices=False)
    return u[:, :k].contiguous(), s[:k, None] * vh[:k]


def tangent_step(left, right, d_weight, lr):
    direction, _ = tangent_gradient(d_weight @ right.mT, left, right)
    return retract(left - lr * direction, right - lr * (left.mT @ d_weight))


def test_thin_oracle_equals_dense_oracle():
    left, right = pair()
    basis = torch.linalg.qr(torch.randn(11, 3, dtype=DOUBLE))[0]
    m = torch.randn(14, 3, dtype=DOUBLE)
    dense, thin = algorithm1_dense(left, right, m @ basis.mT, 0.1), algorithm1_thin(left, right, m, basis, 0.1)
    assert torch.allclose(dense[0] @ dense[1], thin[0] @ thin[1], atol=1e-12)


@pytest.mark.parametrize("steps", [1, 5])
def test_steps_agree_with_algorithm_1_to_second_order(steps, monkeypatch):
    monkeypatch.setattr("wasi.linalg.factored.DAMPING", 0.0)
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(14, 11, dtype=DOUBLE, generator=generator) for _ in range(steps)]

    def difference(lr):
        ours = dense = pair()
        for g in gradients:
            ours, dense = tangent_step(*ours, g, lr), algorithm1_dense(*dense, g, lr)
        return (ours[0] @ ours[1] - dense[0] @ dense[1]).norm()

    ratio = difference(1e-4) / difference(5e-5)
    assert 3.8 < ratio < 4.2


def test_direction_and_right_gradient_are_the_tangent_projection(monkeypatch):
    monkeypatch.setattr("wasi.linalg.factored.DAMPING", 0.0)
    left, right = pair()
    g = torch.randn(14, 11, dtype=DOUBLE)
    direction, square = tangent_gradient(g @ right.mT, left, right)
    on_left = left @ left.mT
    on_right = torch.linalg.pinv(right) @ right
    expected = g @ on_right + on_left @ g - on_left @ g @ on_right
    assert torch.allclose(direction @ right + on_left @ g, expected, atol=1e-9)
    assert torch.allclose(square + (left.mT @ g).square().sum(), expected.square().sum())


def test_damping_bounds_the_step_along_vanishing_directions():
    left, right = pair()
    right = right.clone()
    right[-1] *= 1e-9
    direction, square = tangent_gradient(torch.ones(14, 4, dtype=DOUBLE), left, right)
    assert direction.isfinite().all() and square.isfinite()


def test_retraction_keeps_the_product_and_the_signs():
    left, right = pair()
    moved = left + 1e-2 * torch.randn(14, 4, dtype=DOUBLE)
    new_left, new_right = retract(moved, right)
    assert torch.allclose(new_left @ new_right, moved @ right)
    assert torch.allclose(new_left.mT @ new_left, torch.eye(4, dtype=DOUBLE))
    assert ((new_left * left).sum(0) > 0.9).all()


@pytest.mark.parametrize("shape", [(5,), (5, 6), (2, 3, 4)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_product_and_its_gradients_against_autograd(shape, with_bias):
    left, right = pair()
    bias = torch.randn(14, dtype=DOUBLE, requires_grad=True) if with_bias else None
    x = torch.randn(*shape, 11, dtype=DOUBLE, requires_grad=True)
    y = torch.nn.functional.linear(x, left @ right, bias)
    assert torch.allclose(product(x.detach(), left, right, None if bias is None else bias.detach()), y)
    grad = torch.randn(*shape, 14, dtype=DOUBLE)
    y.backward(grad)
    assert torch.allclose(rank_gradient(grad, left) @ right, x.grad)
    if with_bias:
        assert torch.allclose(row_sum(grad), bias.grad)


@pytest.mark.parametrize("r", [3, 10, None])
def test_factor_gradients_against_autograd(r):
    left, right = pair()
    x = decaying(5, 6, 11)
    basis = None if r is None else torch.linalg.qr(torch.randn(11, r, dtype=DOUBLE))[0]
    core = x if r is None else x @ basis
    seen = x if r is None else core @ basis.mT
    a, b = left.clone().requires_grad_(), right.clone().requires_grad_()
    grad = torch.randn(5, 6, 14, dtype=DOUBLE)
    ((seen @ (a @ b).mT) * grad).sum().backward()
    d_left, d_right, d_bias = factor_gradients(grad, core, [None, None, basis], left, right, with_bias=True)
    assert torch.allclose(d_left, a.grad) and torch.allclose(d_right, b.grad)
    assert torch.allclose(d_bias, grad.sum((0, 1)))
