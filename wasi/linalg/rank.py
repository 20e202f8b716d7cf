"""How many directions a threshold of explained variance keeps."""

import torch
from torch import Tensor

from wasi.linalg.orthonormal import qr_positive


def explained_rank(energies: Tensor, epsilon: float, total: Tensor | float | None = None) -> int:
    """Smallest `K >= 1` whose leading `energies` add up to at least `epsilon` of the whole.

    Args:
        energies: squared singular values, non-increasing, shape `[n]`.
        epsilon: share to explain, in (0, 1]; 1 keeps everything.
        total: the whole energy, when `energies` holds only its leading part.

    Raises:
        ValueError: the energy is zero or not finite.
    """
    energies = energies.double()
    whole = energies.sum() if total is None else torch.as_tensor(total, dtype=torch.float64)
    if not torch.isfinite(whole) or whole <= 0:
        raise ValueError("the matrix is zero or not finite")
    if epsilon >= 1:
        return energies.numel()
    # Summation in float64 still rounds: a threshold met to 1e-12 counts as met.
    short = energies.cumsum(0) < epsilon * whole * (1 - 1e-12)
    return min(int(short.sum()) + 1, energies.numel())


def weight_rank(weight: Tensor, epsilon: float) -> int:
    """The rank that `truncate` keeps of a weight (`O x I`), from its singular values alone."""
    return explained_rank(gram_energies(torch.linalg.eigvalsh(_gram(weight.detach().double()))), epsilon)


def truncate(weight: Tensor, epsilon: float, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Factors `L` (`O x K`, orthonormal columns) and `R` (`K x I`) of a weight (`O x I`).

    `L = U[:, :K]`, `R = diag(S[:K]) V^T[:K]`: the best approximation of rank `K` (Eckart-Young). `K` is `rank` or,
    where that is None, the least that explains `epsilon`.

    From the eigenvectors of `W W^T` or `W^T W`, whichever is smaller, in float64. That squares the condition, so
    directions below 1e-8 of the largest are not singular vectors to the last digit; but as `L` is orthonormal and
    `R = L^T W`, what `L` spans is kept exactly, and at full rank `L R` is `W` to rounding.
    """
    wide = weight.detach().double()
    energies, vectors = torch.linalg.eigh(_gram(wide))
    k = explained_rank(gram_energies(energies), epsilon) if rank is None else rank
    leading = vectors[:, -k:].flip(-1)
    left = leading if len(wide) <= wide.shape[1] else qr_positive(wide @ leading)[0]
    return left.to(weight.dtype).contiguous(), (left.mT @ wide).to(weight.dtype)


def _gram(wide: Tensor) -> Tensor:
    """`W W^T` or `W^T W`, the smaller."""
    return wide @ wide.mT if len(wide) <= wide.shape[1] else wide.mT @ wide


def gram_energies(eigenvalues: Tensor) -> Tensor:
    """Squared singular values, non-increasing, from the eigenvalues (ascending) of a Gram matrix."""
    return eigenvalues.flip(0).clamp_min(0)
