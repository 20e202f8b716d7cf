"""A plain SGD step on `W = L R` from the gradient's coordinates alone: `dW = M U^T`, `M` of `O x r` (DESIGN 3.3).

To first order (see `thin_step_`) the same step as `factored.tangent_gradient` and a step of SGD on both factors,
but every product is `r` wide where those are `K` wide, and no gradient of the size of a factor exists.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wasi.linalg.factored import damped_cholesky


class Coordinates(NamedTuple):
    """A weight gradient `dW = M U^T`: `m` is `M` (`O x r`), `along` is `L^T M` (`K x r`)."""

    m: Tensor
    along: Tensor

    def plus(self, other: "Coordinates | None") -> "Coordinates":
        """Of the sum of two gradients in the same basis `U`."""
        return self if other is None else Coordinates(self.m + other.m, self.along + other.along)


class Lift(NamedTuple):
    """How a gradient `M U^T` acts on `L`, whatever `M` is.

    b: `(R R^T + delta I)^-1 R U`, `K x r`: `b^T R` is the part of `U^T` in the row space of `R`;
    overlap: `(R U)^T b`, `r x r`: `U^T` times that part.
    """

    b: Tensor
    overlap: Tensor


def lift(basis: Tensor, right: Tensor) -> Lift:
    """Of `U` (`I x r`, orthonormal columns) at `R` (`K x I`)."""
    seen = right @ basis
    b = torch.cholesky_solve(seen, damped_cholesky(right @ right.mT))
    return Lift(b, seen.mT @ b)


@dataclass
class ThinTangent:
    """Tangent gradient `(M - L A) b^T` (of `L`) and `A U^T` (of `R`), both linear in the gradient.

    m: `M`, `O x r`; along: `A = L^T M`, `K x r`; b: of the `Lift`, `K x r`; basis: `U`, `I x r`;
    gram: `(M - L A)^T (M - L A)`, `r x r`; square: squared length in weight space, a scalar.
    """

    m: Tensor
    along: Tensor
    b: Tensor
    basis: Tensor
    gram: Tensor
    square: Tensor

    def scale_(self, factor: Tensor) -> None:
        """Multiply the gradient, for clipping."""
        self.m *= factor
        self.along *= factor
        self.gram *= factor.square()


def thin_tangent(gradient: Coordinates, basis: Tensor, lifted: Lift) -> ThinTangent:
    """Tangent gradient of `dW = M U^T` at `W = L R`; `U` (`I x r`) and `L` have orthonormal columns.

    With the lift of an earlier `R` it is still a tangent, no longer exactly the nearest one.
    """
    m, along = gradient
    gram = m.mT @ m - along.mT @ along  # as L is orthonormal, without a pass over it
    square = along.square().sum() + (gram * lifted.overlap).sum()
    return ThinTangent(m, along, lifted.b, basis, gram, square)


# `||E||_F` of `thin_step_` up to which a quarter of its square is nothing to bring `L` back for.
_SMALL_STRETCH = 1e-2


def thin_step_(
    left: Tensor, right: Tensor, tangent: ThinTangent, lr: float, weight_decay: float, drift: Tensor
) -> Tensor:
    """In place: `L <- L - lr (M - L A') B^T`, `R <- (1 - lr wd) R - lr A' U^T`; the drift after it, a scalar.

    With `A' = A` the step, orthogonal to `L`, would stretch `L^T L = I` by `E = lr^2 B G B^T`, where `G` is
    `(M - L A)^T (M - L A)`. `A' = A - lr/2 B G` leaves `E^2 / 4` of that. To second order it changes
    `L R` by `lr^2/2 L B G (U^T - B^T R)`, nothing where inputs lie in the row space of `R`, and for the better, as
    this is a part of the difference from Algorithm 1. A step so long that `E` is not small keeps `A`.

    The drift bounds `||L^T L - I||_F`, rounding of `L` included, and says when `factored.retract` is due. What `L`
    had drifted before, `D = L^T L - I`, becomes `(I + lr A' B^T)^T D (I + lr A' B^T)`.
    """
    a, b = tangent.along, tangent.b
    squares = b.mT @ b
    stretch = (lr**2 * tangent.gram) @ squares
    size = _root(stretch * stretch.mT)
    is_small = size <= _SMALL_STRETCH
    a = torch.where(is_small, torch.addmm(a, b, tangent.gram, alpha=-lr / 2), a)
    added = torch.where(is_small, size.square() / 4, size)
    turned = _root(lr**2 * a.mT @ a * squares)
    normal = torch.addmm(tangent.m, left, a, alpha=-1)
    left.addmm_(normal, b.mT, alpha=-lr)
    right.addmm_(a, tangent.basis.mT, alpha=-lr, beta=1 - lr * weight_decay)
    rounding = torch.finfo(left.dtype).eps * left.shape[1] ** 0.5
    return drift * (1 + turned).square() + added + rounding


def _root(squares: Tensor) -> Tensor:
    """Of a sum that rounding may have left below zero."""
    return squares.sum().clamp_min(0).sqrt()
