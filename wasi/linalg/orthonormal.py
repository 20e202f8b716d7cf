"""Orthonormal bases of tall matrices."""

import torch
from torch import Tensor

# Below the first diagonal one Cholesky pass is not exact enough, below the second even two are not.
_WELL_CONDITIONED, _CONDITIONED = 0.3, 0.01
_DEPENDENT = 1e-3  # as above, for columns of unit length: the last one adds no direction that rounding did not make


def qr_positive(a: Tensor) -> tuple[Tensor, Tensor]:
    """`a = Q T` with orthonormal `Q` (`m x n`) and upper triangular `T` with a non-negative diagonal.

    The sign convention makes the factorisation unique, so a basis that does not move keeps its signs.
    """
    q, t = torch.linalg.qr(a)
    sign = torch.where(t.diagonal() < 0, -1.0, 1.0).to(a.dtype)
    return q * sign, t * sign[:, None]


def qr_near_orthonormal(a: Tensor) -> tuple[Tensor, Tensor]:
    """`qr_positive` for a matrix whose columns are not far from orthonormal, by Cholesky: matrix products only.

    A second pass makes up for what the first loses to a worse condition (CholeskyQR2, Fukaya et al. 2014);
    Householder QR takes over where the Gram matrix is not close enough to the identity even for that.
    """
    lower, info = torch.linalg.cholesky_ex(a.mT @ a)
    smallest = 0.0 if info.item() else lower.diagonal().min().item()
    if smallest < _CONDITIONED:
        return qr_positive(a)
    q = torch.linalg.solve_triangular(lower.mT, a, upper=True, left=False)
    if smallest >= _WELL_CONDITIONED:
        return q, lower.mT
    again = torch.linalg.cholesky(q.mT @ q)
    return torch.linalg.solve_triangular(again.mT, q, upper=True, left=False), again.mT @ lower.mT


def orthonormalize(a: Tensor) -> Tensor:
    """Orthonormal basis (`m x n`, `n <= m`) of the columns of `a`, in the order and with the signs of `a`.

    Columns are scaled to unit length first: the columns of a converged subspace iteration `A^T A U` are
    orthogonal but of very different length, and scaling alone makes the cheap Cholesky pass safe.
    """
    length = torch.linalg.vector_norm(a, dim=0)
    return qr_near_orthonormal(a / length.clamp_min(torch.finfo(a.dtype).tiny))[0]


def independent_columns(a: Tensor) -> Tensor | None:
    """`orthonormalize(a)`, or None where the columns of `a` are linearly dependent to the precision of float32."""
    scaled = a / torch.linalg.vector_norm(a, dim=0).clamp_min(torch.finfo(a.dtype).tiny)
    lower, info = torch.linalg.cholesky_ex(scaled.mT @ scaled)
    if info.item() or lower.diagonal().min() < _DEPENDENT:
        return None
    return qr_near_orthonormal(scaled)[0]
