"""The linear layer of WASI and WSI: two thin factors, and no dense weight, weight gradient or (WASI) saved input.

One training step of a layer with weight `W = L R`; `n = B N` is the number of rows of its input (images x tokens). See
`docs/method.md` for the notation and derivations::

    X [B, N, I] --R^T--> H = X R^T [n, K] --L^T--> Y = H L^T + b [B, N, O]      forward
        \\--U_2, U_3--> core [B, r_2, r], saved in place of X; also saved, in a step that ends with an update of
                        the bases: A_m^T A_m U_m of each basis U_m
    G = dLoss/dY [B, N, O]                                                      backward
        dX = (G L) R                                      [n, I]
        M  = G^T (core x_2 U_2)                           [O, r]   so that dW = M U^T with U = U_3 [I, r]
        dL = M (R U)^T, dR = (L^T M) U^T                  gradients of the factors, or
        dC = M                                            gradient of the coordinates C [O, r] of a step W + C U^T
    optimizer                                                                   step
        on L and R, as on any parameters; or on C (SGD: C <- -lr M), then `fold_` adds C U^T to L R (Algorithm 1)
    every `update_gap` steps                                                    activation subspace iteration
        U_m <- orth(A_m^T A_m U_m); a layer that steps on C also gets L <- orth(L), with L R unchanged
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wasi.layers.activation import TuckerState
from wasi.layers.autocast import as_autocast, without_autocast
from wasi.layers.base import LowRankLayer
from wasi.layers.skipped_output import placeholder_output
from wasi.linalg import subspace, tucker
from wasi.linalg.thin import low_rank_linear, thin_matmul


class FactoredProduct(torch.autograd.Function):
    """`Y = (X R^T) L^T + b`, saving `L`, `R` and a Tucker decomposition of `X` for the backward pass.

    With `G` (`[..., O]`), the gradient of `Y`: `dX = (G L) R` and `db`, the sum of the rows of `G`. The weight gradient
    goes to the coordinates as `dC = M` (`O x r`) if `C` requires a gradient, else to the factors, see
    `factor_gradients`. What is returned as the gradient of a basis that requires one is its subspace iterate
    `A_m^T A_m U_m` (`d_m x r_m`), computed in the forward pass, see `TuckerState`.

    Args of `apply`: x (`[B, *tokens, I]`), left (`O x K`), right (`K x I`), bias (`[O]` or None), coordinates (`C` or
    None; its values are not used), output_needed (False returns zeros for `Y`), batch_rank and bases (see
    `wasi.linalg.tucker.compress`).
    """

    @staticmethod
    def forward(ctx, x, left, right, bias, coordinates, output_needed, batch_rank, *bases):
        wanted = ctx.needs_input_grad[7:]
        core, factors, products = tucker.compress(x, bases, batch_rank, wanted)
        ctx.save_for_backward(left, right, core, *factors, *products)
        return low_rank_linear(x, right, left, bias) if output_needed else placeholder_output(x, left)

    @staticmethod
    @once_differentiable  # autograd does not see that `core` depends on `x`, so second derivatives would be wrong
    def backward(ctx, grad):
        left, right, core, *rest = ctx.saved_tensors
        factors, products = rest[: core.dim()], rest[core.dim() :]
        need_x, need_left, need_right, need_bias, need_coordinates = ctx.needs_input_grad[:5]
        d_x = d_left = d_right = d_coordinates = None
        if need_x:
            d_x = (thin_matmul(grad, left.mT) @ right).view(*grad.shape[:-1], right.shape[1])  # (G L) R
        if need_coordinates:
            d_coordinates = tucker.weight_coordinates(grad, core, factors)  # M, O x r
        elif need_left or need_right:
            d_left, d_right = factor_gradients(grad, core, factors, left, right)
        d_bias = tucker.row_sum(grad) if need_bias else None
        return d_x, d_left, d_right, d_bias, d_coordinates, None, None, *products


def factor_gradients(
    grad: Tensor, core: Tensor, factors: tucker.Factors, left: Tensor, right: Tensor
) -> tuple[Tensor, Tensor]:
    """Return `dL = dW R^T` (`O x K`) and `dR = L^T dW` (`K x I`) for `dW = G^T X~`, without forming `dW`.

    `X~` is the tensor that `core` and `factors` stand for; for it the result is exact. With a feature basis `U` of
    `r <= 2 K` columns, `dL = M (R U)^T` and `dR = (L^T M) U^T`, where `dW = M U^T`. Otherwise, with `G'` (`q x O`) the
    gradient in the bases of all modes but the features and `core` as rows (`q x r`), `dL = G'^T (core (R U)^T)` and
    `dR = (L^T G'^T) core U^T`; a feature mode that is kept whole has `U = I`.

    Args:
        grad: `G`, `[B, *tokens, O]`.
        core, factors: as `wasi.linalg.tucker.compress` returns them.
        left, right: `L` (`O x K`) and `R` (`K x I`).
    """
    basis = factors[-1]
    if basis is not None and basis.shape[1] <= 2 * left.shape[1]:
        m = tucker.weight_coordinates(grad, core, factors)  # M, O x r
        return m @ (right @ basis).mT, (left.mT @ m) @ basis.mT
    seen = tucker.contract_gradient(grad, factors).reshape(-1, grad.shape[-1])  # G', q x O
    rows = core.reshape(-1, core.shape[-1])  # core, q x r
    right_part = right if basis is None else right @ basis  # R U, K x r
    d_right = (left.mT @ seen.mT) @ rows
    return seen.mT @ (rows @ right_part.mT), d_right if basis is None else d_right @ basis.mT


class FactoredLinear(LowRankLayer):
    """`Y = X (L R)^T + b` with `L` (`O x K`, orthonormal columns at the start) and `R` (`K x I`).

    For most optimizers, `L` and `R` are ordinary parameters. SGD without momentum, and SWAN, step on `W` as a whole if
    the saved input has a feature basis of at most `K` columns: after `use_coordinates`, the weight gradient
    `dW = M U^T` arrives as the gradient `M` of `C` (`O x r`), the optimizer steps on `C`, and `fold_` takes `C U^T`
    into `L` and `R`. That is one step of Algorithm 1 (`wasi.linalg.subspace.algorithm_1`) up to terms quadratic in its
    length. Outside the optimizer's step `C` is zero and takes no memory.

    Args:
        left, right: `L` and `R`; bias: `[O]` or None; state: see `LowRankLayer`.
        update: `subspace`, or `none`, with which `L` and `R` are ordinary parameters for every optimizer.
        preconditioner: when `P` of `fold_` is computed: in every `step`, or only after the feature `basis` has moved.
    """

    training_only = ("state", "P")
    output_needed = True
    bias: nn.Parameter | None
    P: Tensor | None  # `(R R^T + delta I)^-1 R U` (`K x r`) of `fold_`, kept between steps by preconditioner "basis"

    def __init__(
        self,
        left: nn.Parameter,
        right: nn.Parameter,
        bias: nn.Parameter | None,
        state: TuckerState | None = None,
        update: str = "subspace",
        preconditioner: str = "step",
    ):
        super().__init__(right.shape[1], left.shape[0], state)
        self.L, self.R, self.update, self.preconditioner = left, right, update, preconditioner
        self.register_parameter("bias", bias)
        self.C: Tensor | None = None
        self._zero_coordinates: Tensor | None = None  # `O x r` zeros that share one element: `C` between steps
        self.register_buffer("P", None)

    @property
    def weight_rank(self) -> int:
        return self.L.shape[1]

    def weight_factors(self) -> tuple[Tensor, ...]:
        return self.L, self.R

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and (self.L.requires_grad or self.R.requires_grad)):
            return low_rank_linear(x, self.R, self.L, self.bias)
        batch_rank, bases = self.begin_saving(x)
        x, left, right, bias, *bases = as_autocast(x, self.L, self.R, self.bias, *bases)
        with without_autocast(x):
            return FactoredProduct.apply(x, left, right, bias, self.C, self.output_needed, batch_rank, *bases)

    def use_coordinates(self) -> bool:
        """Make `C` the parameter that an optimizer steps on, if `U` has `r <= K` columns.

        The caller must make sure that `L` and `R` train, and that no other layer shares `L`: its gradient would be in
        coordinates of another basis.

        Returns:
            Whether the layer now uses coordinates.
        """
        basis = None if self.state is None else self.state.feature_basis
        if basis is None or basis.shape[1] > self.weight_rank:
            return False
        self.P = None
        self._zero_coordinates = self.L.new_zeros(()).expand(self.out_features, basis.shape[1])
        self.C = self._zero_coordinates.detach().requires_grad_()
        return True

    def _apply(self, fn, recurse=True):
        """Move or convert `C`, too: neither parameter nor buffer, it stays the tensor that an optimizer holds."""
        super()._apply(fn, recurse)
        if self.C is not None:
            self._zero_coordinates = self.L.new_zeros(()).expand(self.C.shape)
            self.C.data = fn(self.C.data) if self.has_pending_step else self._zero_coordinates
            if self.C.grad is not None:
                self.C.grad.data = fn(self.C.grad.data)
        return self

    @property
    def has_pending_step(self) -> bool:
        """Whether `C` holds a step that has not been folded in: its memory has then been allocated."""
        return self.C is not None and self.C.stride() != (0, 0)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        kept = state_dict.get(f"{prefix}P")
        self.P = None if kept is None else torch.empty_like(kept, device=self.L.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def trainable_factors(model: nn.Module) -> list[FactoredLinear]:
    """Return the factored layers whose `update` is `subspace` and whose factors both train.

    Of layers that share their factors only one is returned, so that its factors are stepped on once.
    """
    factored = (m for m in model.modules() if isinstance(m, FactoredLinear) and m.update != "none")
    return list({id(m.L): m for m in factored if m.L.requires_grad and m.R.requires_grad}.values())


@torch.no_grad()
def fold_layers_(layers: Sequence[FactoredLinear], decays: Sequence[float]) -> None:
    """Take `C U^T`, projected on the tangent space at rank `K`, into each `L` and `R`; reset `C` and its gradient.

    The equations are those of `wasi.linalg.subspace.fold_`.

    Args:
        layers: each with coordinates, see `use_coordinates`.
        decays: for each layer, the factor that weight decay leaves of its product.
    """
    weights = []
    for layer in layers:
        assert layer.C is not None and layer.state is not None  # ensured by `use_coordinates`
        basis = layer.state.feature_basis
        assert basis is not None
        weights.append((layer.L, layer.R, layer.C, basis))
    kept = [layer.P if layer.preconditioner == "basis" else None for layer in layers]
    ps = subspace.fold_all_(weights, decays, kept)
    for layer, p in zip(layers, ps, strict=True):
        if layer.preconditioner == "basis" and layer.P is None:
            layer.P = p.clone()  # on an accelerator `p` is a part of one tensor for several layers
        assert layer.C is not None and layer._zero_coordinates is not None
        layer.C.data, layer.C.grad = layer._zero_coordinates, None


@torch.no_grad()
def project_gradients_(layers: Sequence[FactoredLinear]) -> list[Tensor]:
    """Replace each `L.grad` by the tangent direction of `wasi.linalg.subspace.tangent_gradient`.

    Layers without gradients are left out.

    Returns:
        For each of the others, the squared Frobenius norm of the tangent gradient of `W`, a scalar (`L` being
        orthonormal).
    """
    weights = [(layer.L.grad, layer.L, layer.R) for layer in layers if layer.L.grad is not None]
    squares = []
    for (d_left, _, right), (direction, square) in zip(weights, subspace.tangent_gradients(weights), strict=True):
        assert right.grad is not None  # both factors are trained
        d_left.copy_(direction)
        squares.append(square + right.grad.square().sum())
    return squares


@torch.no_grad()
def retract_layers_(layers: Sequence[FactoredLinear]) -> None:
    """Make the columns of each `L` orthonormal again without changing `L R`, see `wasi.linalg.subspace.retract`."""
    found = subspace.retract_all([(layer.L, layer.R) for layer in layers])
    for layer, (left, right) in zip(layers, found, strict=True):
        layer.L.copy_(left)
        layer.R.copy_(right)
        layer.P = None  # it was computed from the previous `R`, in other coordinates of the row space
