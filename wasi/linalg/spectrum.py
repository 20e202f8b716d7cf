"""Leading right singular vectors of a matrix or unfolding, by an eigendecomposition or, if it is large, iteratively.

The unfolding `A_m` of mode `m` of a tensor has that mode last: `prod(other modes) x d_m`. A threshold `epsilon` is the
share of the squared Frobenius norm to explain. An entry that is not finite raises `torch.linalg.LinAlgError`.
"""

from math import prod

import torch
from torch import Tensor

from wasi.linalg.orthonormal import qr_positive
from wasi.linalg.rank import explained_rank, gram_energies, left_singular_vectors, rank_of

# Up to this side an eigendecomposition of the Gram matrix costs less than iterating.
EXACT_SIDE = 1024
_ITERATIONS = 6
_OVERSAMPLE = 8
_SEED = 0
_PIECE = 2**20  # elements of a tensor that are converted to float64 at a time


def leading_subspace(rows: Tensor, epsilon: float | None, rank: int | None) -> Tensor:
    """Return an orthonormal basis (`d x r`) of the leading right singular subspace of `rows` (`n x d`).

    Columns are ordered by decreasing singular value; for `rank >= d` the basis is the identity. If both sides exceed
    `EXACT_SIDE` and `epsilon < 1`, it is computed by block subspace iteration from a random start with a fixed seed.

    Args:
        epsilon, rank: give one of them, the other is None; `rank` is `r`, `epsilon` gives the least `r` that meets it.

    Raises:
        ValueError: `rank` is above `n`; neither is given; or `epsilon` is given and `rows` is zero.
    """
    n, d = rows.shape
    if rank is not None and rank >= d:
        return torch.eye(d, dtype=rows.dtype, device=rows.device)
    if rank is not None and rank > n:
        raise ValueError(f"rank {rank} needs at least {rank} rows, got {n}")
    if min(n, d) <= EXACT_SIDE or (epsilon is not None and epsilon >= 1):
        return left_singular_vectors(rows.mT, epsilon, rank).to(rows.dtype).contiguous()
    return _iterated(rows, epsilon, rank)


def mode_subspace(x: Tensor, mode: int, rank: int) -> Tensor:
    """Return the leading `rank` right singular vectors (`d_m x rank`) of the mode-`m` unfolding of `x`.

    Columns are ordered by decreasing singular value. If the Gram matrix is small (`_has_small_gram`), no copy of `x` is
    made, otherwise its unfolding may be copied, see `leading_subspace`.

    Raises:
        ValueError: the rank is above the number of the unfolding's rows.
    """
    if not _has_small_gram(x, mode):
        return leading_subspace(_unfold(x, mode), None, rank)
    return torch.linalg.eigh(_mode_gram(x, mode))[1].flip(1)[:, :rank].to(x.dtype).contiguous()


def mode_rank(x: Tensor, mode: int, epsilon: float) -> int:
    """Return the least rank that explains `epsilon` of the mode-`m` unfolding of `x`.

    Raises:
        ValueError: `epsilon < 1`, and `x` is zero.
    """
    if epsilon >= 1:
        return x.shape[mode]
    if not _has_small_gram(x, mode):
        return leading_subspace(_unfold(x, mode), epsilon, None).shape[1]
    return explained_rank(gram_energies(torch.linalg.eigvalsh(_mode_gram(x, mode))), epsilon)


def _unfold(x: Tensor, mode: int) -> Tensor:
    """Return the mode-`m` unfolding with the mode last: `[prod(other modes), d_m]`."""
    return x.movedim(mode, -1).reshape(-1, x.shape[mode])


def _has_small_gram(x: Tensor, mode: int) -> bool:
    """Return whether `A_m^T A_m` is at most `EXACT_SIDE` wide, and `A_m` has at least as many rows as columns."""
    return x.shape[mode] ** 2 <= x.numel() and x.shape[mode] <= EXACT_SIDE


def mode_spectrum(x: Tensor, mode: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return right singular vectors (`d_m x r`) and squared singular values (`[r]`, float64) of a mode's unfolding.

    `r` is the least rank that explains `epsilon`. For `d_m` up to `EXACT_SIDE`, no copy of `x` is made.

    Raises:
        ValueError: `x` is zero.
    """
    if x.shape[mode] > EXACT_SIDE:
        rows = _unfold(x, mode)
        basis = leading_subspace(rows, epsilon, None)
        return basis, (rows @ basis).double().square().sum(0)
    energy, vectors = torch.linalg.eigh(_mode_gram(x, mode))
    energy = gram_energies(energy)
    r = explained_rank(energy, epsilon)
    return vectors.flip(1)[:, :r].to(x.dtype).contiguous(), energy[:r]


def _mode_gram(x: Tensor, mode: int) -> Tensor:
    """Return `A_m^T A_m` (`d_m x d_m`, float64), summed over pieces of `x` to save memory."""
    d = x.shape[mode]
    view = x.reshape(prod(x.shape[:mode]), d, -1)
    along = 2 if view.shape[0] == 1 else 0
    others = view.numel() // view.shape[along]
    gram = torch.zeros(d, d, dtype=torch.float64, device=x.device)
    for piece in view.split(max(1, _PIECE // others), along):
        wide = piece.double().movedim(1, 0).reshape(d, -1)
        gram.addmm_(wide, wide.mT)
    return gram


def _iterated(rows: Tensor, epsilon: float | None, rank: int | None) -> Tensor:
    d = rows.shape[1]
    nothing = torch.zeros((), dtype=torch.float64, device=rows.device)
    total = sum((piece.double().square().sum() for piece in rows.split(max(1, _PIECE // d))), start=nothing)
    generator = torch.Generator().manual_seed(_SEED)
    width = (rank or 64) + _OVERSAMPLE
    while True:
        width = min(width, *rows.shape)
        basis = torch.randn(d, width, generator=generator, dtype=torch.float64).to(rows)
        for _ in range(_ITERATIONS):
            basis = qr_positive(rows.mT @ (rows @ basis))[0]
        projected = (rows @ basis).double()
        energy, rotation = torch.linalg.eigh(projected.mT @ projected)
        energy, rotation = gram_energies(energy), rotation.flip(1)
        reached = epsilon is None or energy.sum() >= epsilon * total
        if reached or width == min(rows.shape):
            r = rank_of(energy, epsilon, rank, total)
            return (basis.double() @ rotation[:, :r]).to(rows.dtype).contiguous()
        width *= 2
