"""The linear layer of WASI and WSI: two thin factors, and no dense weight, gradient or (WASI) input."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasi.layers.activation import TuckerState
from wasi.layers.base import LowRankLayer
from wasi.linalg import factored


class FactoredProduct(torch.autograd.Function):
    """`Y = (X R^T) L^T + b`, keeping `L`, `R` and the given core and factors of `X` for the backward pass."""

    @staticmethod
    def forward(x, left, right, bias, core, *factors):
        return F.linear(F.linear(x, right), left, bias)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, left, right, bias, core, *factors = inputs
        ctx.has_bias = bias is not None
        ctx.save_for_backward(left, right, core, *factors)

    @staticmethod
    def backward(ctx, grad):
        left, right, core, *factors = ctx.saved_tensors
        need_x, need_left, need_right, need_bias = ctx.needs_input_grad[:4]
        d_x = d_left = d_right = d_bias = None
        if need_x:
            d_x = (grad @ left) @ right
        if need_left or need_right:
            d_left, d_right = factored.factor_gradients(grad, core, factors, left, right)
        if need_bias:
            d_bias = grad.sum(tuple(range(grad.dim() - 1)))
        return d_x, d_left, d_right, d_bias, None, *[None] * len(factors)


class FactoredLinear(LowRankLayer):
    """`Y = X (L R)^T + b` with `L` (`O x K`, orthonormal columns) and `R` (`K x I`), DESIGN 3.1 to 3.3.

    Its parameters have ordinary gradients, those of `L` and `R`; `tangent_` and `retract_` turn a step of
    any optimizer into one on the product `L R`.

    Args:
        left, right: the factors; bias: shape `[O]` or None; states: see `LowRankLayer`.
    """

    def __init__(
        self,
        left: nn.Parameter,
        right: nn.Parameter,
        bias: nn.Parameter | None,
        states: Sequence[TuckerState] = (),
    ):
        super().__init__(right.shape[1], left.shape[0], states)
        self.L, self.R = left, right
        self.register_parameter("bias", bias)

    @property
    def weight_rank(self) -> int:
        return self.L.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and (self.L.requires_grad or self.R.requires_grad)):
            return F.linear(F.linear(x, self.R), self.L, self.bias)
        core, factors = self.saved(x.detach())
        return FactoredProduct.apply(x, self.L, self.R, self.bias, core, *factors)

    @torch.no_grad()
    def tangent_(self) -> Tensor:
        """Replace `L.grad` by the tangent direction; the squared norm of the tangent gradient, a scalar."""
        direction, square = factored.tangent_gradient(self.L.grad, self.L, self.R)
        self.L.grad.copy_(direction)
        return square + self.R.grad.square().sum()

    @torch.no_grad()
    def retract_(self) -> None:
        """Make `L` orthonormal again without changing `L R`."""
        left, right = factored.retract(self.L, self.R)
        self.L.copy_(left)
        self.R.copy_(right)
