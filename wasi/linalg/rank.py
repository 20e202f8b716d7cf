"""How many directions a threshold of explained variance keeps."""

import torch
from torch import Tensor


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
    return explained_rank(torch.linalg.svdvals(weight.detach()).square(), epsilon)


def truncate(weight: Tensor, epsilon: float, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Factors `L` (`O x K`, orthonormal columns) and `R` (`K x I`) of a weight (`O x I`).

    `L = U[:, :K]`, `R = S[:K] V[:K]`: the best approximation of rank `K` (Eckart-Young). `K` is `rank` or, where
    that is None, the least that explains `epsilon`.
    """
    u, s, vh = torch.linalg.svd(weight.detach(), full_matrices=False)
    k = explained_rank(s.square(), epsilon) if rank is None else rank
    return u[:, :k].contiguous(), (s[:k, None] * vh[:k]).contiguous()
