"""The linear layer of ASI: a dense weight whose input is kept as a Tucker decomposition."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasi.layers.activation import TuckerState
from wasi.layers.base import LowRankLayer
from wasi.linalg import tucker


class TuckerProduct(torch.autograd.Function):
    """`Y = X W^T + b`, keeping `W` and what `TuckerState.shrink` gives for `X` for the backward pass."""

    @staticmethod
    def forward(x, weight, bias, batch_mode, core, *factors):
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, weight, _, ctx.batch_mode, *decomposition = inputs
        ctx.save_for_backward(weight, *decomposition)

    @staticmethod
    def backward(ctx, grad):
        weight, core, *factors = ctx.saved_tensors
        if ctx.batch_mode is not None:
            core, factors[0] = ctx.batch_mode.read()
        d_x = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            d_x = grad @ weight
        if ctx.needs_input_grad[1]:
            d_weight, d_bias = tucker.weight_coordinates(grad, core, factors, ctx.needs_input_grad[2])
            if factors[-1] is not None:
                d_weight = d_weight @ factors[-1].mT
        elif ctx.needs_input_grad[2]:
            d_bias = tucker.row_sum(grad)
        return d_x, d_weight, d_bias, None, None, *[None] * len(factors)


class TuckerLinear(LowRankLayer):
    """`Y = X W^T + b` with a dense trainable `W` (`O x I`) and a low-rank saved input (ASI).

    Args:
        weight, bias: the parameters of the `nn.Linear` it replaces; states: see `LowRankLayer`.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, states: Sequence[TuckerState]):
        super().__init__(weight.shape[1], weight.shape[0], states)
        self.weight = weight
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return F.linear(x, self.weight, self.bias)
        core, factors, batch_mode = self.next_state().shrink(x.detach())
        return TuckerProduct.apply(x, self.weight, self.bias, batch_mode, core, *factors)
