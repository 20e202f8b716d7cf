"""A plain SGD step on `W = L R` from the gradient's coordinates alone: `dW = M U^T`, `M` of `O x r` (DESIGN 3.3).

The same step as `factored.tangent_gradient`, a step of SGD on both factors and `factored.retract`, but every
product is `r` wide where those are `K` wide, and no gradient of the size of a factor exists.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wasi.linalg.factored import damped_cholesky, retract

# The square roots below are power series in the step's Gram matrix; beyond this norm QR takes over.
_SMALL_STEP = 0.1


@dataclass
class ThinTangent:
    """Tangent gradient `normal b^T` (of `L`) and `along U^T` (of `R`), both linear in the gradient.

    normal: `(I - L L^T) M`, `O x r`; along: `L^T M`, `K x r`; b: `(R R^T + delta I)^-1 R U`, `K x r`;
    basis: `U`, `I x r`; square: squared length in weight space, a scalar.
    """

    normal: Tensor
    along: Tensor
    b: Tensor
    basis: Tensor
    square: Tensor

    def scale_(self, factor: Tensor) -> None:
        """Multiply the gradient, for clipping."""
        self.normal *= factor
        self.along *= factor


def thin_tangent(m: Tensor, basis: Tensor, left: Tensor, right: Tensor) -> ThinTangent:
    """Tangent gradient of `dW = M U^T` at `W = L R`; `U` (`I x r`) has orthonormal columns."""
    along = left.mT @ m
    normal = torch.addmm(m, left, along, alpha=-1)
    seen = right @ basis
    b = torch.cholesky_solve(seen, damped_cholesky(right @ right.mT))
    square = along.square().sum() + ((normal.mT @ normal) * (seen.mT @ b)).sum()
    return ThinTangent(normal, along, b, basis, square)


def thin_step_(left: Tensor, right: Tensor, tangent: ThinTangent, lr: float, weight_decay: float) -> None:
    """In place: `W <- (1 - lr wd) L R - lr * tangent gradient`, retracted so that `L` stays orthonormal.

    With `D = N B^T` the step of `L`, `(L - lr D)^T (L - lr D) = I + B E B^T` for `E = lr^2 N^T N`. The
    retraction is the symmetric one: `T = (I + B E B^T)^1/2 = I + B X B^T` goes into `R`, and
    `T^-1 = I + B Y B^T` into `L`, with `X` and `Y` series in the `r x r` matrices `E` and `B^T B`.
    """
    n, a, b, basis = tangent.normal, tangent.along, tangent.b, tangent.basis
    e, g = lr**2 * (n.mT @ n), b.mT @ b
    right.mul_(1 - lr * weight_decay)
    if (e.norm() * g.norm()).item() > _SMALL_STEP:
        new_left, new_right = retract(left - lr * (n @ b.mT), right - lr * (a @ basis.mT))
        left.copy_(new_left), right.copy_(new_right)
        return
    x, y = _square_root_series(e, g)
    rows = b.mT @ right - lr * (b.mT @ a) @ basis.mT  # B^T R after R's own step
    right.addmm_(torch.cat([a * -lr, b @ x], 1), torch.cat([basis.mT, rows], 0))
    turned = (left @ b) @ y - n @ (lr * (torch.eye(g.shape[0], dtype=g.dtype, device=g.device) + g @ y))
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
