"""Leading eigenvectors of a Gram matrix `A A^T`, exactly or, for long sides, by subspace iteration."""

import torch
from torch import Tensor

from wasi.linalg.orthonormal import qr_positive
from wasi.linalg.rank import explained_rank

# Up to this size an exact eigendecomposition costs less than iterating.
EXACT_SIDE = 1024
_ITERATIONS = 6
_OVERSAMPLE = 8


def leading_subspace(rows: Tensor, epsilon: float | None, rank: int | None, seed: int = 0) -> Tensor:
    """Basis (`d x r`) of the leading right singular subspace of `rows` (`n x d`).

    Give either `epsilon` (explained variance to reach, which fixes `r`) or `rank`. Columns are ordered by
    decreasing energy. Sides beyond `EXACT_SIDE` are treated by a seeded block subspace iteration.
    """
    n, d = rows.shape
    if rank is not None and rank >= d:
        return torch.eye(d, dtype=rows.dtype, device=rows.device)
    if min(n, d) <= EXACT_SIDE or (epsilon is not None and epsilon >= 1):
        return _exact(rows, epsilon, rank)
    return _iterated(rows, epsilon, rank, seed)


def _exact(rows: Tensor, epsilon: float | None, rank: int | None) -> Tensor:
    n, d = rows.shape
    wide = rows.double()
    if d <= n:
        energy, vectors = torch.linalg.eigh(wide.mT @ wide)
        energy, vectors = energy.flip(0).clamp_min(0), vectors.flip(1)
    else:
        energy, left = torch.linalg.eigh(wide @ wide.mT)
        energy, left = energy.flip(0).clamp_min(0), left.flip(1)
        vectors = wide.mT @ left
    r = _wanted(energy, epsilon, rank, None)
    basis = vectors[:, :r]
    if d > n:  # scaled by the singular values until here, and possibly rank-deficient
        if r > n:
            raise ValueError(f"rank {r} needs at least {r} rows, got {n}")
        basis = qr_positive(basis)[0]
    return basis.to(rows.dtype).contiguous()


def _iterated(rows: Tensor, epsilon: float | None, rank: int | None, seed: int) -> Tensor:
    d = rows.shape[1]
    total = rows.double().square().sum()
    generator = torch.Generator().manual_seed(seed)
    width = (rank or 64) + _OVERSAMPLE
    while True:
        width = min(width, *rows.shape)
        basis = torch.randn(d, width, generator=generator, dtype=torch.float64).to(rows)
        for _ in range(_ITERATIONS):
            basis = qr_positive(rows.mT @ (rows @ basis))[0]
        projected = (rows @ basis).double()
        energy, rotation = torch.linalg.eigh(projected.mT @ projected)
        energy, rotation = energy.flip(0).clamp_min(0), rotation.flip(1)
        reached = epsilon is None or energy.sum() >= epsilon * total
        if reached or width == min(rows.shape):
            r = _wanted(energy, epsilon, rank, total)
            return (basis.double() @ rotation[:, :r]).to(rows.dtype).contiguous()
        width *= 2


def _wanted(energy: Tensor, epsilon: float | None, rank: int | None, total: Tensor | None) -> int:
    return rank if rank is not None else explained_rank(energy, epsilon, total)
