"""Orthonormal bases of tall matrices."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

# Least entry on the diagonal of the Cholesky factor of `A^T A`: below the first, one Cholesky pass is not exact enough;
# below the second, even two are not.
_WELL_CONDITIONED, _CONDITIONED = 0.3, 0.01
_DEPENDENT = 1e-3  # the same entry where columns have unit length: below it one is a sum of others but for rounding


def qr_positive(a: Tensor) -> tuple[Tensor, Tensor]:
    """`a = Q T` with orthonormal `Q` (`m x n`) and upper triangular `T` with a non-negative diagonal.

    The sign convention makes the factorisation unique, so a basis that does not move keeps its signs.
    """
    q, t = torch.linalg.qr(a)
    sign = torch.where(t.diagonal() < 0, -1.0, 1.0).to(a.dtype)
    return q * sign, t * sign[:, None]


def is_on_cpu(a: Tensor) -> bool:
    """Whether control flow may depend on values of `a`: elsewhere reading them would need a synchronisation."""
    return a.device.type == "cpu"


def qr_near_orthonormal(a: Tensor) -> tuple[Tensor, Tensor]:
    """`qr_positive` for a matrix whose columns are not far from orthonormal, by Cholesky: matrix products only.

    One Cholesky pass where the columns are well conditioned, two where they are less so (CholeskyQR2, Fukaya et al.
    2014), Householder QR where they are worse. On an accelerator, where choosing would need a synchronisation, always
    shifted CholeskyQR3, which holds up to a condition of about the inverse of the unit roundoff (Fukaya et al. 2020).
    """
    if not is_on_cpu(a):
        return _shifted_cholesky_qr(a)
    lower, info = torch.linalg.cholesky_ex(a.mT @ a)
    smallest = 0.0 if info.item() else lower.diagonal().min().item()
    if smallest < _CONDITIONED:
        return qr_positive(a)
    q = torch.linalg.solve_triangular(lower.mT, a, upper=True, left=False)
    if smallest >= _WELL_CONDITIONED:
        return q, lower.mT
    again = torch.linalg.cholesky(q.mT @ q)
    return torch.linalg.solve_triangular(again.mT, q, upper=True, left=False), again.mT @ lower.mT


def _shifted_cholesky_qr(a: Tensor) -> tuple[Tensor, Tensor]:
    """Three Cholesky passes, the first with a shift of `11 (m n + n (n + 1)) u |A|^2` that keeps it from failing."""
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
    """Lower Cholesky factor. A matrix that is not positive definite raises LinAlgError on the CPU, else gives NaN."""
    if is_on_cpu(gram):
        return torch.linalg.cholesky(gram)
    lower, info = torch.linalg.cholesky_ex(gram)
    return torch.where(info == 0, lower, torch.nan)


def in_batches(function: Callable[..., Tensor], *matrices: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Pairs (index, `function` of the matrices at that index), in any order; `function` must be one for `torch.vmap`.

    On an accelerator, where starting an operation takes longer than a decomposition of a small matrix, those of equal
    shapes are computed as one batch; on a CPU one after the other, as the results are asked for.
    """
    rows = list(zip(*matrices, strict=True))
    if not rows or is_on_cpu(rows[0][0]):
        yield from ((number, function(*row)) for number, row in enumerate(rows))
        return
    by_shape: dict[object, list[int]] = {}
    for number, row in enumerate(rows):
        by_shape.setdefault(tuple(matrix.shape for matrix in row), []).append(number)
    for numbers in by_shape.values():
        columns = zip(*(rows[number] for number in numbers), strict=True)
        yield from zip(numbers, torch.vmap(function)(*map(torch.stack, columns)), strict=True)


def independent_columns(a: Tensor, otherwise: Tensor) -> Tensor:
    """Orthonormal basis (`m x n`, `n <= m`) of the columns of `a`, in the order and with the signs of `a`; `otherwise`
    where these are linearly dependent to the precision of float32.

    Columns are scaled to unit length first: the columns of a converged subspace iteration `A^T A U` are
    orthogonal but of very different length, and scaling alone makes the cheap Cholesky pass safe.
    """
    scaled = a / torch.linalg.vector_norm(a, dim=0).clamp_min(torch.finfo(a.dtype).tiny)
    lower, info = torch.linalg.cholesky_ex(scaled.mT @ scaled)
    independent = (info == 0) & (lower.diagonal().min() >= _DEPENDENT)
    if not is_on_cpu(a):
        return torch.where(independent, qr_near_orthonormal(scaled)[0], otherwise)
    return qr_near_orthonormal(scaled)[0] if independent else otherwise
