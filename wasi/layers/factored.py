"""The linear layer of WASI and WSI: two thin factors, and no dense weight, gradient or (WASI) input."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasi.layers.activation import TuckerState
from wasi.layers.base import LowRankLayer
from wasi.layers.batch_mode import BatchMode
from wasi.linalg import factored, tucker
from wasi.linalg.thin_step import Coordinates, Lift, ThinTangent, lift, thin_tangent


class FactoredProduct(torch.autograd.Function):
    """`Y = (X R^T) L^T + b`, keeping `L`, `R` and what `TuckerState.shrink` gives for `X` for the backward pass.

    `through`, of which `Y` is made, is what `linalg.factored.coordinates` gives for `X`; no gradient flows there.
    `collect`, where it is not None, receives the weight gradient's coordinates in the basis `U`, the last factor,
    in place of gradients of `L` and `R`.
    """

    @staticmethod
    def forward(x, left, right, bias, through, collect, batch_mode, core, *factors):
        return factored.from_coordinates(through, left, bias, x.shape)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, left, right, _, _, ctx.collect, ctx.batch_mode, *decomposition = inputs
        ctx.save_for_backward(left, right, *decomposition)

    @staticmethod
    def backward(ctx, grad):
        left, right, core, *factors = ctx.saved_tensors
        if ctx.batch_mode is not None:
            core, factors[0] = ctx.batch_mode.read()
        need_x, need_left, need_right, need_bias = ctx.needs_input_grad[:4]
        d_x = d_left = d_right = d_bias = None
        if need_x or ctx.collect is not None:
            d_rank = factored.rank_gradient(grad, left)
        if need_x:
            d_x = d_rank @ right
        if ctx.collect is not None:
            m, d_bias = tucker.weight_coordinates(grad, core, factors, need_bias)
            along, _ = tucker.weight_coordinates(d_rank, core, factors)
            ctx.collect(Coordinates(m, along))
        elif need_left or need_right:
            d_left, d_right, d_bias = factored.factor_gradients(grad, core, factors, left, right, need_bias)
        elif need_bias:
            d_bias = tucker.row_sum(grad)
        return d_x, d_left, d_right, d_bias, None, None, None, None, *[None] * len(factors)


class FactoredLinear(LowRankLayer):
    """`Y = X (L R)^T + b` with `L` (`O x K`, orthonormal columns) and `R` (`K x I`), DESIGN 3.1 to 3.3.

    Its parameters have ordinary gradients, those of `L` and `R`; `tangent_` and `retract_` turn a step of
    any optimizer into one on the product `L R`. With `collects` set, the backward pass leaves the weight
    gradient in `coordinates` instead (in the saved input's feature basis, which stands still in a step), for
    `linalg.thin_step`. `drift` bounds how far `L^T L` is from the identity after such steps (`thin_step_`). The
    lift that they need is made anew when the basis has moved or the factors were retracted, and kept in between.

    Args:
        left, right: the factors; bias: shape `[O]` or None; `left` and `bias` may get other memory here.
        states: see `LowRankLayer`.
    """

    has_factors = True

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
        self._lay_out()
        self.collects = False
        self.register_buffer("drift", factored.off_orthonormal(left.detach()))
        self.coordinates: Coordinates | None = None
        if self._is_thin():
            rank, features = self.weight_rank, self.states[0].feature_basis.shape[1]
            self.register_buffer("lift_b", left.new_zeros(rank, features))
            self.register_buffer("lift_overlap", left.new_zeros(features, features))
            self.register_buffer("lifted_at", torch.tensor(-1))  # `moves` of the state then

    def _lay_out(self) -> None:
        """Let the bias lie beside `L`, so that the product of both need not put it there each time.

        On a CPU; elsewhere strided parameters would cost the optimizer more. Where layers share `L`, it can lie
        beside one bias only, the first's. A copy of the layer need not be laid out so: it computes the same.
        """
        if self.bias is not None and self.L.device.type == "cpu" and self.L.is_contiguous():
            self.L.data, self.bias.data = factored.side_by_side(self.L.data, self.bias.data)

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for key in (f"{prefix}L", f"{prefix}bias"):
            if key in destination and not keep_vars:  # safetensors refuses views of a part
                destination[key] = destination[key].contiguous()

    @property
    def weight_rank(self) -> int:
        return self.L.shape[1]

    @property
    def retracted(self) -> nn.Parameter | None:
        return self.L if self.L.requires_grad else None

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return factored.product(x, self.L, self.R, self.bias)
        if not (self.L.requires_grad or self.R.requires_grad):
            return F.linear(F.linear(x, self.R), self.L, self.bias)
        through, core, factors, batch_mode = self._look_at(x.detach())
        collect = self._collect if self.collects else None
        return FactoredProduct.apply(x, self.L, self.R, self.bias, through, collect, batch_mode, core, *factors)

    @torch.no_grad()
    def _look_at(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor | None], BatchMode | None]:
        """What the forward pass needs of an input, and the decomposition in which it is kept."""
        state = self.next_state()
        basis = None if state is None else state.first_basis(x)
        through, features = factored.coordinates(x, self.R, self.bias is not None, basis)
        kept = (x, [None] * x.dim(), None) if state is None else state.shrink(x, features)
        return through, *kept

    def weight_factors(self) -> tuple[Tensor, ...]:
        return self.L, self.R

    def can_collect(self) -> bool:
        """Whether a step's whole weight gradient has coordinates in one basis, thinner than the factors."""
        return self._is_thin() and self.L.requires_grad and self.R.requires_grad

    def _is_thin(self) -> bool:
        if len(self.states) != 1:
            return False
        basis = self.states[0].feature_basis
        return basis is not None and basis.shape[1] <= self.weight_rank

    def _collect(self, gradient: Coordinates) -> None:
        self.coordinates = gradient.plus(self.coordinates)

    @torch.no_grad()
    def thin_tangent(self) -> ThinTangent:
        """Of the collected gradient, which it lets go of."""
        state = self.states[0]
        if self.lifted_at != state.moves:
            found = lift(state.feature_basis, self.R)
            # Into the layout that a loaded checkpoint has, or a resumed run would differ in its last bits.
            self.lift_b.copy_(found.b)
            self.lift_overlap.copy_(found.overlap)
            self.lifted_at.copy_(state.moves)
        gradient, self.coordinates = self.coordinates, None
        return thin_tangent(gradient, state.feature_basis, Lift(self.lift_b, self.lift_overlap))

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
        if self.collects:
            self.drift.copy_(factored.off_orthonormal(self.L))
        if self._is_thin():
            self.lifted_at.fill_(-1)
