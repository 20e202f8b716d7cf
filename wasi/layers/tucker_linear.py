"""The linear layer of ASI: a dense weight, and an input that is saved as a Tucker decomposition."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wasi.layers.activation import TuckerState
from wasi.layers.autocast import as_autocast, without_autocast
from wasi.layers.base import LowRankLayer
from wasi.layers.skipped_output import placeholder_output
from wasi.linalg import tucker
from wasi.linalg.thin import no_view


class TuckerProduct(torch.autograd.Function):
    """`Y = X W^T + b`, saving `W` (`O x I`) and a Tucker decomposition of `X` for the backward pass.

    With `G` (`[..., O]`), the gradient of `Y`: `dX = G W`, `dW = M U^T` (`O x I`; see
    `wasi.linalg.tucker.weight_gradient`) and `db`, the sum of the rows of `G`. The gradient of a basis that requires
    one is its subspace iterate `A_m^T A_m U_m`, see `TuckerState`.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, output_needed, batch_rank, *bases):
        core, factors, products = tucker.compress(x, bases, batch_rank, ctx.needs_input_grad[5:])
        ctx.save_for_backward(weight, core, *factors, *products)
        if not output_needed:
            return placeholder_output(x, weight)
        y = F.linear(x, weight, bias)
        return no_view(y, y.shape)

    @staticmethod
    @once_differentiable  # autograd does not see that `core` depends on `x`, so second derivatives would be wrong
    def backward(ctx, grad):
        weight, core, *rest = ctx.saved_tensors
        factors, products = rest[: core.dim()], rest[core.dim() :]
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        d_x = grad @ weight if need_x else None
        d_weight = tucker.weight_gradient(grad, core, factors) if need_weight else None
        return d_x, d_weight, tucker.row_sum(grad) if need_bias else None, None, None, *products


class TuckerLinear(LowRankLayer):
    """`Y = X W^T + b` with a dense trainable `W` (`O x I`) and a low-rank saved input (ASI).

    Args:
        weight, bias: the parameters of the `nn.Linear` it replaces; state: see `LowRankLayer`.
    """

    output_needed = True
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: nn.Parameter | None, state: TuckerState | None):
        super().__init__(weight.shape[1], weight.shape[0], state)
        self.weight = weight
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return F.linear(x, self.weight, self.bias)
        batch_rank, bases = self.begin_saving(x)
        x, weight, bias, *bases = as_autocast(x, self.weight, self.bias, *bases)
        with without_autocast(x):
            return TuckerProduct.apply(x, weight, bias, self.output_needed, batch_rank, *bases)
