"""Orthonormal bases of tall matrices."""

import torch
from torch import Tensor

from wasi.linalg import batched

# Bounds on the least diagonal entry of the Cholesky factor of `A^T A`: below the first, one Cholesky pass is not exact
# enough; below the second, even two are not.
_WELL_CONDITIONED, _CONDITIONED = 0.3, 0.01
_DEPENDENT = 1e-3  # bound on that entry for columns of unit length: below it, they are dependent up to rounding


def qr_positive(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return `Q` and `T` of `a = Q T`: `Q` (`m x n`) with orthonormal columns, `T` upper triangular with diagonal >= 0.

    The sign convention makes the factorisation unique, so a basis that does not change keeps its signs.
    """
    q, t = torch.linalg.qr(a)
    sign = torch.where(t.diagonal() < 0, -1.0, 1.0).to(a.dtype)
    return q * sign, t * sign[:, None]


def qr_near_orthonormal(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return `Q` (`m x n`) and `T` of `qr_positive` for nearly orthonormal columns, by the faster Cholesky QR.

    `T^T` is the Cholesky factor of `A^T A`, and `Q = A T^-1`. This is done once if the columns are well conditioned,
    twice if they are less so (CholeskyQR2, Fukaya et al. 2014), and replaced by Householder QR if they are worse. On an
    accelerator, where that choice would need a synchronisation, it is always shifted CholeskyQR3, which is stable up to
    a condition number of about the inverse of the unit roundoff (Fukaya et al. 2020).
    """
    if not batched.is_on_cpu(a):
        return _shifted_cholesky_qr(a)
    lower, info = torch.linalg.cholesky_ex(a.mT @ a)
    return qr_positive(a) if info.item() else _cholesky_qr(a, lower)


def _cholesky_qr(a: Tensor, lower: Tensor) -> tuple[Tensor, Tensor]:
    """Return `qr_near_orthonormal` on a CPU, given the Cholesky factor `lower` of `A^T A`."""
    smallest = lower.diagonal().min().item()
    if smallest < _CONDITIONED:
        return qr_positive(a)
    q = torch.linalg.solve_triangular(lower.mT, a, upper=True, left=False)
    if smallest >= _WELL_CONDITIONED:
        return q, lower.mT
    again = torch.linalg.cholesky(q.mT @ q)
    return torch.linalg.solve_triangular(again.mT, q, upper=True, left=False), again.mT @ lower.mT


def _shifted_cholesky_qr(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return `Q` and `T` by three Cholesky passes.

    The first is shifted by `11 (m n + n (n + 1)) (eps / 2) ||A||_F^2`, so that it does not fail.
    """
    m, n = a.shape
    shift = 11 * (m * n + n * (n + 1)) * torch.finfo(a.dtype).eps / 2 * torch.linalg.vector_norm(a).square()
    q, uppers = a, []
    for shifted in (shift, 0.0, 0.0):
        gram = q.mT @ q
        gram.diagonal().add_(shifted)
        upper = cholesky(gram).mT
        q = torch.linalg.solve_triangular(upper, q, upper=True, left=False)
        uppers.append(upper)
    first, second, third = uppers
    return q, third @ (second @ first)


def cholesky(gram: Tensor) -> Tensor:
    """Return the lower Cholesky factor; of a matrix that is not positive definite, NaN if it is not on the CPU.

    Raises:
        torch.linalg.LinAlgError: a matrix on the CPU is not positive definite.
    """
    if batched.is_on_cpu(gram):
        return torch.linalg.cholesky(gram)
    lower, info = torch.linalg.cholesky_ex(gram)
    return torch.where(info == 0, lower, torch.nan)


def cholesky_solve(rows: Tensor, lower: Tensor) -> Tensor:
    """Return `(L L^T)^-1 rows` (`n x r`) for the lower Cholesky factor `L` (`n x n`); not on a CPU, it may be a batch.

    torch's own on CUDA takes the matrices of a batch one after another; newer releases do what is done here (aten's
    cuda/linalg/BatchLinearAlgebra.cpp, `_cholesky_solve_helper_cuda`).
    """
    if batched.is_on_cpu(rows):
        return torch.cholesky_solve(rows, lower)
    half = torch.linalg.solve_triangular(lower, rows, upper=False)
    return torch.linalg.solve_triangular(lower.mT, half, upper=True)


def independent_columns(a: Tensor, otherwise: Tensor, eps: float = 0.0) -> Tensor:
    """Return `orth(a)`, the `Q` (`m x n`, `n <= m`) of `qr_positive`, or `otherwise` if columns are linearly dependent.

    Dependent means up to the rounding of `a`. Columns are scaled to unit length first: those of a converged subspace
    iterate `A^T A U` are orthogonal but of very different lengths, so scaled ones suit the cheap Cholesky QR.

    Args:
        eps: the machine epsilon of the type in which `a` was computed, where that is narrower than float32.
    """
    scaled = a / torch.linalg.vector_norm(a, dim=0).clamp_min(torch.finfo(a.dtype).tiny)
    lower, info = torch.linalg.cholesky_ex(scaled.mT @ scaled)
    independent = (info == 0) & (lower.diagonal().min() >= max(_DEPENDENT, eps))
    if not batched.is_on_cpu(a):
        return torch.where(independent, _shifted_cholesky_qr(scaled)[0], otherwise)
    return _cholesky_qr(scaled, lower)[0] if independent else otherwise
