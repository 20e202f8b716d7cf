"""Angles between the leading subspaces of two matrices."""

import torch
from torch import Tensor


def left_spectrum(*factors: Tensor) -> tuple[Tensor, Tensor]:
    """Return left singular vectors (`O x n`) and singular values (`[n]`, non-increasing) of a matrix or of `L R`.

    Args:
        factors: one matrix `O x I` (`n = min(O, I)`), or `L` (`O x K`) and `R` (`K x I`), whose product is not formed
            (`n = min(K, I)`).
    """
    *tall, matrix = factors
    if not tall:
        u, s, _ = torch.linalg.svd(matrix, full_matrices=False)
        return u, s
    (left,) = tall
    q, t = torch.linalg.qr(left)
    u, s, _ = torch.linalg.svd(t @ matrix, full_matrices=False)
    return q @ u, s


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """Return the principal angles, in degrees and ascending (`[k]`), between the column spaces of two `O x k` matrices.

    By scipy, which uses both cosines and sines, so that small and right angles are equally accurate.
    """
    from scipy.linalg import subspace_angles  # imported here, as only `train.monitor=true` needs it

    radians = subspace_angles(*(matrix.detach().double().cpu().numpy() for matrix in (a, b)))
    return torch.rad2deg(torch.from_numpy(radians[::-1].copy()))
