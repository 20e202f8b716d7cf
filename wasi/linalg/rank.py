"""The rank at which a threshold `epsilon` of explained variance is met, and the SVD truncated to it."""

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


def weight_rank(weight: Tensor, epsilon: float) -> int:
    """Return the rank that `truncate` gives a weight (`O x I`) at `epsilon`, without computing the factors."""
    return explained_rank(gram_energies(torch.linalg.eigvalsh(_gram(weight.detach().double()))), epsilon)


def truncate(weight: Tensor, epsilon: float, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Return factors `L` (`O x K`, orthonormal columns) and `R` (`K x I`) of the truncated SVD of `W` (`O x I`).

    `L = U[:, :K]` and `R = L^T W = diag(S[:K]) V^T[:K]`, the best approximation of rank `K` (Eckart-Young). `K` is
    `rank`, or, where that is None, the least rank that explains `epsilon` (`explained_rank`).

    The SVD is computed from the eigenvectors of `W W^T` or `W^T W`, whichever is smaller, in float64. That squares the
    condition number, so directions whose singular value is below 1e-8 of the largest are inaccurate. But `L` is
    orthonormal and `R = L^T W`: up to rounding, `L R` is `W` projected on the span of `L`, and `W` itself at full rank.

    Raises:
        ValueError: `weight` is zero and no `rank` is given.
        torch.linalg.LinAlgError: an entry is not finite.
    """
    wide = weight.detach().double()
    energies, vectors = torch.linalg.eigh(_gram(wide))
    k = explained_rank(gram_energies(energies), epsilon) if rank is None else rank
    leading = vectors[:, -k:].flip(-1)
    left = leading if len(wide) <= wide.shape[1] else qr_positive(wide @ leading)[0]
    return left.to(weight.dtype).contiguous(), (left.mT @ wide).to(weight.dtype)


def _gram(wide: Tensor) -> Tensor:
    """`W W^T` or `W^T W`, whichever is smaller."""
    return wide @ wide.mT if len(wide) <= wide.shape[1] else wide.mT @ wide


def gram_energies(eigenvalues: Tensor) -> Tensor:
    """Return squared singular values, non-increasing and not negative, from a Gram matrix's ascending eigenvalues."""
    return eigenvalues.flip(0).clamp_min(0)
