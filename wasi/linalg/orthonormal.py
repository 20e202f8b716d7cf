"""Orthonormal bases of tall matrices."""

import torch
from torch import Tensor

# Below this diagonal the Gram matrix is too ill-conditioned for one Cholesky pass in working precision.
_WELL_CONDITIONED = 0.3


def qr_positive(a: Tensor) -> tuple[Tensor, Tensor]:
    """`a = Q T` with orthonormal `Q` (`m x n`) and upper triangular `T` with a non-negative diagonal.

    The sign convention makes the factorisation unique, so a basis that does not move keeps its signs.
    """
    q, t = torch.linalg.qr(a)
    sign = torch.where(t.diagonal() < 0, -1.0, 1.0).to(a.dtype)
    return q * sign, t * sign[:, None]


def qr_near_orthonormal(a: Tensor) -> tuple[Tensor, Tensor]:
    """`qr_positive` for a matrix whose columns are almost orthonormal, by Cholesky: matrix products only.

    Falls back to Householder QR where the Gram matrix is not close enough to the identity to be safe.
    """
    lower, info = torch.linalg.cholesky_ex(a.mT @ a)
    if info.item() != 0 or lower.diagonal().min().item() < _WELL_CONDITIONED:
        return qr_positive(a)
    q = torch.linalg.solve_triangular(lower.mT, a, upper=True, left=False)
    return q, lower.mT


def orthonormalize(a: Tensor) -> Tensor:
    """Orthonormal basis (`m x n`, `n <= m`) of the columns of `a`, in the order and with the signs of `a`.

    Columns are scaled to unit length first: the columns of a converged subspace iteration `A^T A U` are
    orthogonal but of very different length, and scaling alone makes the cheap Cholesky pass safe.
    """
    length = torch.linalg.vector_norm(a, dim=0)
    return qr_near_orthonormal(a / length.clamp_min(torch.finfo(a.dtype).tiny))[0]
