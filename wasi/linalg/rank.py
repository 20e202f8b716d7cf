"""The rank at which a threshold `epsilon` of explained variance is met, and the singular vectors up to that rank."""

import torch
from torch import Tensor

from wasi.linalg.orthonormal import qr_positive


def explained_rank(energies: Tensor, epsilon: float, total: Tensor | float | None = None) -> int:
    """Return the least `K >= 1` whose leading `energies` sum to at least `epsilon` times the total.

    Args:
        energies: squared singular values, `[n]`, non-increasing.
        epsilon: share to explain, in (0, 1]; 1 returns `n`.
        total: the sum of all squared singular values, if `energies` holds only the leading ones.

    Raises:
        ValueError: the total is zero or not finite.
    """
    energies = energies.double()
    whole = energies.sum() if total is None else torch.as_tensor(total, dtype=torch.float64)
    if not torch.isfinite(whole) or whole <= 0:
        raise ValueError("the matrix is zero or not finite")
    if epsilon >= 1:
        return energies.numel()
    # Sums are rounded in float64, too: a threshold that is met up to 1e-12 counts as met.
    short = energies.cumsum(0) < epsilon * whole * (1 - 1e-12)
    return min(int(short.sum()) + 1, energies.numel())


def rank_of(energies: Tensor, epsilon: float | None, rank: int | None, total: Tensor | float | None = None) -> int:
    """Return `rank` if it is given, else the least rank that explains `epsilon` (see `explained_rank`).

    Raises:
        ValueError: neither is given; or only `epsilon` is, and the total is zero or not finite.
    """
    if rank is not None:
        return rank
    if epsilon is None:
        raise ValueError("neither a rank nor a threshold of explained variance is given")
    return explained_rank(energies, epsilon, total)


def left_singular_vectors(matrix: Tensor, epsilon: float | None, rank: int | None) -> Tensor:
    """Return the leading left singular vectors of a matrix `A` (`m x n`) as orthonormal columns (`m x k`, float64).

    `k` is `rank_of`. They are eigenvectors of `A A^T` or, if that is smaller, `A` times those of `A^T A`, in float64.
    That squares the condition number, so directions whose singular value is below 1e-8 of the largest are inaccurate.

    Raises:
        ValueError: as `rank_of`.
        torch.linalg.LinAlgError: an entry is not finite.
    """
    wide = matrix.double()
    energies, vectors = torch.linalg.eigh(_gram(wide))
    leading = vectors.flip(-1)[:, : rank_of(gram_energies(energies), epsilon, rank)]
    # Columns of that product are as long as the singular values, some of which may be zero.
    return leading if len(wide) <= wide.shape[1] else qr_positive(wide @ leading)[0]


def weight_rank(weight: Tensor, epsilon: float) -> int:
    """Return the rank that `truncate` gives a weight (`O x I`) at `epsilon`, without computing the factors."""
    return explained_rank(gram_energies(torch.linalg.eigvalsh(_gram(weight.detach().double()))), epsilon)


def truncate(weight: Tensor, epsilon: float, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Return factors `L` (`O x K`, orthonormal columns) and `R` (`K x I`) of the truncated SVD of `W` (`O x I`).

    `L = U[:, :K]` and `R = L^T W = diag(S[:K]) V^T[:K]`, the best approximation of rank `K` (Eckart-Young). `K` is
    `rank`, or, where that is None, the least rank that explains `epsilon` (`explained_rank`).

    However inaccurate directions of tiny singular values are (see `left_singular_vectors`), `L` is orthonormal and
    `R = L^T W`: up to rounding, `L R` is `W` projected on the span of `L`, and `W` itself at full rank.

    Raises:
        ValueError: `weight` is zero and no `rank` is given.
        torch.linalg.LinAlgError: an entry is not finite.
    """
    wide = weight.detach().double()
    left = left_singular_vectors(wide, epsilon, rank)
    return left.to(weight.dtype).contiguous(), (left.mT @ wide).to(weight.dtype)


def _gram(wide: Tensor) -> Tensor:
    """Return `W W^T` or `W^T W`, whichever is smaller."""
    return wide @ wide.mT if len(wide) <= wide.shape[1] else wide.mT @ wide


def gram_energies(eigenvalues: Tensor) -> Tensor:
    """Return squared singular values, non-increasing and not negative, from a Gram matrix's ascending eigenvalues."""
    return eigenvalues.flip(0).clamp_min(0)
