"""How far the leading subspace of a matrix has turned."""

import torch
from torch import Tensor


def left_spectrum(*factors: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors (`O x n`) and singular values (`n`) of a matrix, or of the product of two."""
    *tall, matrix = factors
    if not tall:
        u, s, _ = torch.linalg.svd(matrix, full_matrices=False)
        return u, s
    (left,) = tall
    q, t = torch.linalg.qr(left)
    u, s, _ = torch.linalg.svd(t @ matrix, full_matrices=False)
    return q @ u, s


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """Angles in degrees, ascending (`k`), between the spans of two `O x k` matrices with orthonormal columns.

    From cosines and sines together, so that small angles and right angles are equally exact (Bjorck & Golub 1973).
    """
    a, b = (torch.linalg.qr(m.double())[0] for m in (a, b))
    overlap = a.mT @ b
    cosines = torch.linalg.svdvals(overlap)
    sines = torch.linalg.svdvals(b - a @ overlap).flip(0)
    return torch.rad2deg(torch.atan2(sines, cosines))
