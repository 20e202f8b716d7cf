"""Thin products against the plain ones, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from wasi.linalg.thin import low_rank_linear, thin_matmul


def _tensors(shape):
    generator = torch.Generator().manual_seed(3)
    sizes = (*shape, 12), (3, 12), (10, 3), (10,)
    return [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in sizes]


@pytest.mark.parametrize("shape", [(5,), (4, 7), (2, 3, 4), (0, 7)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_two_factors_are_two_linears(shape, with_bias):
    x, right, left, bias = _tensors(shape)
    leaves = [x, right, left] + [bias] * with_bias
    bias = bias if with_bias else None
    ours, theirs = low_rank_linear(x, right, left, bias), F.linear(F.linear(x, right), left, bias)
    torch.testing.assert_close(ours, theirs)
    grad = torch.cos(theirs.detach())
    found, wanted = (torch.autograd.grad(y, leaves, grad) for y in (ours, theirs))
    torch.testing.assert_close(found, wanted)


def test_rows_that_are_not_contiguous():
    x, right, _, _ = _tensors((4, 7))
    torch.testing.assert_close(thin_matmul(x.transpose(0, 1), right), (x.transpose(0, 1) @ right.mT).reshape(-1, 3))


def test_what_comes_out_and_the_way_back_keep_the_quick_layout():
    x, right, left, _ = _tensors((4, 7))
    narrowed = thin_matmul(x, right)
    assert narrowed.mT.is_contiguous()
    (d_narrowed,) = torch.autograd.grad(F.linear(narrowed, left).sum(), [narrowed])
    assert d_narrowed.mT.is_contiguous()


def test_a_model_may_change_the_output_in_place():
    """As timm's BEiT and Swin v2 add a bias to what their qkv projection returns."""
    x, right, left, bias = _tensors((4, 7))

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return low_rank_linear(x, right, left)

        @staticmethod
        def backward(ctx, grad):
            return (grad @ left) @ right

    y = Product.apply(x)
    y += bias
    torch.testing.assert_close(torch.autograd.grad(y.sum(), [x])[0], (torch.ones_like(y) @ left) @ right)
