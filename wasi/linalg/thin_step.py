"""A plain SGD step on `W = L R` from the gradient's coordinates alone: `dW = M U^T`, `M` of `O x r` (DESIGN 3.3).

The same step as `factored.tangent_gradient`, a step of SGD on both factors and `factored.retract`, but every
product is `r` wide where those are `K` wide, and no gradient of the size of a factor exists.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wasi.linalg.factored import damped_cholesky, retract

# The square roots below are power series in the step's Gram matrix; beyond this norm QR takes over.
_SMALL_STEP = 0.1


class Coordinates(NamedTuple):
    """A weight gradient `dW = M U^T`: `m` is `M` (`O x r`), `along` is `L^T M` (`K x r`)."""

    m: Tensor
    along: Tensor

    def plus(self, other: "Coordinates | None") -> "Coordinates":
        """Of the sum of two gradients in the same basis `U`."""
        return self if other is None else Coordinates(self.m + other.m, self.along + other.along)


@dataclass
class ThinTangent:
    """Tangent gradient `(M - L A) b^T` (of `L`) and `A U^T` (of `R`), both linear in the gradient.

    m: `M`, `O x r`; along: `A = L^T M`, `K x r`; b: `(R R^T + delta I)^-1 R U`, `K x r`; basis: `U`, `I x r`;
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


def thin_tangent(gradient: Coordinates, basis: Tensor, right: Tensor) -> ThinTangent:
    """Tangent gradient of `dW = M U^T` at `W = L R`; `U` (`I x r`) and `L` have orthonormal columns."""
    m, along = gradient
    seen = right @ basis
    b = torch.cholesky_solve(seen, damped_cholesky(right @ right.mT))
    gram = m.mT @ m - along.mT @ along  # as L is orthonormal, without a pass over it
    square = along.square().sum() + (gram * (seen.mT @ b)).sum()
    return ThinTangent(m, along, b, basis, gram, square)


def thin_step_(left: Tensor, right: Tensor, tangent: ThinTangent, lr: float, weight_decay: float) -> None:
    """In place: `W <- (1 - lr wd) L R - lr * tangent gradient`, retracted so that `L` stays orthonormal.

    With `N = M - L A` and `D = N B^T` the step of `L`, `(L - lr D)^T (L - lr D) = I + B E B^T` for
    `E = lr^2 N^T N`. The retraction is the symmetric one: `T = (I + B E B^T)^1/2 = I + B X B^T` goes into `R`,
    and `T^-1 = I + B Y B^T` into `L`, with `X` and `Y` series in the `r x r` matrices `E` and `B^T B`.
    """
    a, b, basis = tangent.along, tangent.b, tangent.basis
    decay, r = 1 - lr * weight_decay, b.shape[1]
    e, g = lr**2 * tangent.gram, b.mT @ b
    in_range = left @ torch.cat([a, b], 1)
    n = tangent.m - in_range[:, :r]
    if (e.norm() * g.norm()).item() > _SMALL_STEP:
        new_left, new_right = retract(left - lr * (n @ b.mT), decay * right - lr * (a @ basis.mT))
        left.copy_(new_left), right.copy_(new_right)
        return
    x, y = _square_root_series(e, g)
    rows = decay * (b.mT @ right) - lr * (b.mT @ a) @ basis.mT  # B^T R after R's own step
    right.addmm_(torch.cat([a * -lr, b @ x], 1), torch.cat([basis.mT, rows], 0), beta=decay)
    turned = in_range[:, r:] @ y
    turned.addmm_(n, torch.eye(r, dtype=g.dtype, device=g.device) + g @ y, alpha=-lr)
    left.addmm_(turned, b.mT)


def _square_root_series(e: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """`X`, `Y` with `(I + B E B^T)^(+-1/2) = I + B X B^T`, `I + B Y B^T`, for small steps; `G = B^T B`.

    From `(1 + s)^p = sum binom(p, k) s^k`: the term of order `k` is `binom(p, k) (E G)^(k-1) E`.
    """
    power, x, y = e, torch.zeros_like(e), torch.zeros_like(e)
    plus, minus = 1.0, 1.0
    for k in range(1, 13):
        plus *= (0.5 - k + 1) / k
        minus *= (-0.5 - k + 1) / k
        x = x + plus * power
        y = y + minus * power
        power = e @ (g @ power)
        if not power.any() or (power.norm() * g.norm()).item() < torch.finfo(e.dtype).eps:
            break
    return x, y
