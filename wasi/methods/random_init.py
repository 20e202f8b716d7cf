"""`method.init=random`: random factors with the weight's Frobenius norm, the control for the other initialisations."""

import torch
from torch import Tensor

from wasi.linalg.orthonormal import qr_positive


def random_factors(weight: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return `L` (`O x K`), uniformly distributed with orthonormal columns, and `R` (`K x I`), i.i.d. normal.

    As `|L R|_F = |R|_F`, the entries' variance of `|W|_F^2 / (K I)` gives `E |L R|_F^2 = |W|_F^2`.
    """
    out_features, in_features = weight.shape
    left, _ = qr_positive(torch.randn(out_features, rank, generator=generator, dtype=torch.float64))
    right = torch.randn(rank, in_features, generator=generator, dtype=torch.float64)
    scale = weight.detach().double().norm().cpu() / (rank * in_features) ** 0.5
    return left.to(weight), (right * scale).to(weight)
