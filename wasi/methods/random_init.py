"""`method.init=random`: factors that know nothing of the weight but its size, the control of every other start."""

import torch
from torch import Tensor

from wasi.linalg.orthonormal import qr_positive


def random_factors(weight: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`L` (`O x K`) with orthonormal columns, uniformly among such; `R` (`K x I`) of independent normal entries.

    As `L` keeps lengths, `|L R|_F = |R|_F`; with `|W|_F^2 / (K I)` for the entries' variance, its mean square is
    `|W|_F^2`.
    """
    out_features, in_features = weight.shape
    left, _ = qr_positive(torch.randn(out_features, rank, generator=generator, dtype=torch.float64))
    right = torch.randn(rank, in_features, generator=generator, dtype=torch.float64)
    scale = weight.detach().double().norm().cpu() / (rank * in_features) ** 0.5
    return left.to(weight), (right * scale).to(weight)
