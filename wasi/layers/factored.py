"""The linear layer of WASI and WSI: two thin factors, and no dense weight, gradient or (WASI) saved input.

One step of the weight `W = L R` of one layer, `n` being the number of rows (images x tokens) of its input::

    X [B, N, I] --R^T--> H = X R^T [n, K] --L^T--> Y = H L^T + b [B, N, O]      forward
        \\--U_2, U_3--> core [B, r_2, r], what is kept of X; beside it, in a step that ends with an update of the
                        bases, A_m^T A_m U_m of each
    G = dLoss/dY [B, N, O]                                                      backward
        dX = (G L) R                                      [n, I]
        M  = G^T (core x_2 U_2)                           [O, r]   so that dW = M U^T with U = U_3 [I, r]
        dL = M (R U)^T, dR = (L^T M) U^T                  gradients of the factors, or
        dC = M                                            gradient of coordinates C of a step W + C U^T
    optimizer                                                                   step
        on L and R, as on any parameters, or on C: C <- -lr M, then `fold_` takes C U^T into L and R (Algorithm 1)
    every `update_gap` steps                                                    activation subspace iteration
        U_m <- orth(A_m^T A_m U_m), and L <- orth(L) without changing L R
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wasi.layers.activation import TuckerState
from wasi.layers.autocast import as_autocast, without_autocast
from wasi.layers.base import LowRankLayer
from wasi.layers.graph_only import left_out
from wasi.linalg import orthonormal, subspace, tucker
from wasi.linalg.thin import low_rank_linear, thin_matmul


class FactoredProduct(torch.autograd.Function):
    """`Y = (X R^T) L^T + b` that keeps `L`, `R` and a Tucker decomposition of `X` for the backward pass.

    The weight gradient is returned for the coordinates `C` where these require one, and for `L` and `R` otherwise. The
    "gradient" of a basis that requires one is its subspace iterate `A_m^T A_m U_m` (`d_m x r_m`), see `TuckerState`.
    """

    @staticmethod
    def forward(ctx, x, left, right, bias, coordinates, output_needed, batch_rank, *bases):
        wanted = ctx.needs_input_grad[7:]
        core, factors, products = tucker.compress(x, bases, batch_rank, wanted)
        ctx.save_for_backward(left, right, core, *factors, *products)
        return low_rank_linear(x, right, left, bias) if output_needed else left_out(x, left)

    @staticmethod
    @once_differentiable  # `core` is no function of `x` to autograd, so a second derivative would be wrong
    def backward(ctx, grad):
        left, right, core, *rest = ctx.saved_tensors
        factors, products = rest[: core.dim()], rest[core.dim() :]
        need_x, need_left, need_right, need_bias, need_coordinates = ctx.needs_input_grad[:5]
        d_x = d_left = d_right = d_coordinates = None
        if need_x:
            d_x = (thin_matmul(grad, left.mT) @ right).view(*grad.shape[:-1], right.shape[1])
        if need_coordinates:
            d_coordinates = tucker.weight_coordinates(grad, core, factors)
        elif need_left or need_right:
            d_left, d_right = factor_gradients(grad, core, factors, left, right)
        d_bias = tucker.row_sum(grad) if need_bias else None
        return d_x, d_left, d_right, d_bias, d_coordinates, None, None, *products


def factor_gradients(
    grad: Tensor, core: Tensor, factors: tucker.Factors, left: Tensor, right: Tensor
) -> tuple[Tensor, Tensor]:
    """`dL` (`O x K`) and `dR` (`K x I`) for an input given by its Tucker decomposition, which is exact algebra.

    No `O x I` matrix is formed: with a narrow feature basis `M` (`O x r`) comes first, otherwise the input is
    taken through `R` (for `dL`) and the output gradient through `L` (for `dR`).
    """
    basis = factors[-1]
    if basis is not None and basis.shape[1] <= 2 * left.shape[1]:
        m = tucker.weight_coordinates(grad, core, factors)
        return m @ (right @ basis).mT, (left.mT @ m) @ basis.mT
    seen = tucker.contract_gradient(grad, factors).reshape(-1, grad.shape[-1])
    rows = core.reshape(-1, core.shape[-1])
    right_part = right if basis is None else right @ basis
    d_right = (left.mT @ seen.mT) @ rows
    return seen.mT @ (rows @ right_part.mT), d_right if basis is None else d_right @ basis.mT


class FactoredLinear(LowRankLayer):
    """`Y = X (L R)^T + b` with `L` (`O x K`, orthonormal columns at the start) and `R` (`K x I`).

    To an optimizer with state, `L` and `R` are ordinary parameters. For a step without state that acts on `W` as a
    whole (plain SGD, SWAN), `use_coordinates` makes `C` (`O x r`) the place where the weight gradient arrives, and
    `fold_` takes the optimizer's step on `C` into the factors: one step of Algorithm 1
    (`wasi.linalg.subspace.algorithm_1`) but for terms quadratic in its length. `C` is zero, and holds no memory,
    outside the optimizer's step.

    Args:
        left, right: the factors; bias: shape `[O]` or None; state: see `LowRankLayer`.
    """

    update = "subspace"  # of the product `L R`; "none": the optimizer alone moves `L` and `R`, as any parameters
    preconditioner = "step"  # when `B` is computed anew: in every step, or "basis", when the feature basis has moved
    training_only = ("state", "B")
    output_needed = True
    bias: nn.Parameter | None
    B: Tensor | None  # `(R R^T + delta I)^-1 R U` (`K x r`) of `fold_`, where it serves several steps

    def __init__(
        self, left: nn.Parameter, right: nn.Parameter, bias: nn.Parameter | None, state: TuckerState | None = None
    ):
        super().__init__(right.shape[1], left.shape[0], state)
        self.L, self.R = left, right
        self.register_parameter("bias", bias)
        self.C: Tensor | None = None
        self._no_update: Tensor | None = None  # what `C` is outside the optimizer's step: zero, without memory
        self.register_buffer("B", None)

    @property
    def weight_rank(self) -> int:
        return self.L.shape[1]

    def weight_factors(self) -> tuple[Tensor, ...]:
        return self.L, self.R

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and (self.L.requires_grad or self.R.requires_grad)):
            return low_rank_linear(x, self.R, self.L, self.bias)
        batch_rank, bases = self.kept(x)
        x, left, right, bias, *bases = as_autocast(x, self.L, self.R, self.bias, *bases)
        with without_autocast(x):
            return FactoredProduct.apply(x, left, right, bias, self.C, self.output_needed, batch_rank, *bases)

    def use_coordinates(self) -> bool:
        """Make `C` what a step acts on, where the layer has a feature basis of at most `K` columns and `L`, `R` train.

        The weight gradient must lie in the span of one basis in a step, so `L` must not be shared with another layer,
        which the caller has to see to.

        Returns:
            Whether it did.
        """
        basis = None if self.state is None else self.state.feature_basis
        if basis is None or basis.shape[1] > self.weight_rank or not (self.L.requires_grad and self.R.requires_grad):
            return False
        self.B = None
        self._no_update = self.L.new_zeros(()).expand(self.out_features, basis.shape[1])
        self.C = self._no_update.detach().requires_grad_()
        return True

    @property
    def has_update(self) -> bool:
        """Whether an optimizer has stepped on `C` since the last `fold_`: then it holds memory of its own."""
        return self.C is not None and self.C.stride() != (0, 0)

    @torch.no_grad()
    def fold_(self, decay: float = 1.0) -> None:
        """Take the step `C U^T` into `L` and `R`, after weight decay of the product by the factor `decay`."""
        fold_all_([self], [decay])

    @torch.no_grad()
    def tangent_(self) -> Tensor:
        """Replace `L.grad` by the tangent direction; the squared norm of the tangent gradient of `L R`, a scalar."""
        assert self.L.grad is not None and self.R.grad is not None
        direction, square = subspace.tangent_gradient(self.L.grad, self.L, self.R)
        self.L.grad.copy_(direction)
        return square + self.R.grad.square().sum()

    @torch.no_grad()
    def retract_(self) -> None:
        """Make `L` orthonormal again without changing `L R`."""
        left, right = subspace.retract(self.L, self.R)
        self.L.copy_(left)
        self.R.copy_(right)
        self.B = None  # of other coordinates

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        kept = state_dict.get(f"{prefix}B")
        self.B = None if kept is None else torch.empty_like(kept, device=self.L.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@torch.no_grad()
def fold_all_(layers: Sequence[FactoredLinear], decays: Sequence[float]) -> None:
    """`FactoredLinear.fold_` of several layers, on an accelerator together (`wasi.linalg.subspace.fold_all_`)."""
    weights = []
    for layer in layers:
        assert layer.C is not None and layer.state is not None  # by `use_coordinates`
        basis = layer.state.feature_basis
        assert basis is not None
        weights.append((layer.L, layer.R, layer.C, basis))
    together = layers and not orthonormal.is_on_cpu(layers[0].L)
    bs = subspace.fold_all_(weights, decays, [layer.B for layer in layers]) if together else None
    for number, (layer, weight, decay) in enumerate(zip(layers, weights, decays, strict=True)):
        b = bs[number] if bs is not None else subspace.fold_(*weight, decay, layer.B)
        if layer.preconditioner == "basis" and layer.B is None:
            layer.B = b.clone() if together else b  # a part of all layers' tensor there
        assert layer.C is not None and layer._no_update is not None
        layer.C.data, layer.C.grad = layer._no_update, None
