"""Products with a thin matrix, in the memory layout for which BLAS is fastest."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wasi.linalg.batched import is_on_cpu


def thin_matmul(x: Tensor, thin: Tensor) -> Tensor:
    """Return `X A^T` (`n x K`) for `n` rows `X` (`[..., I]`) and a thin `A` (`K x I`, `K << I`).

    On a CPU it is computed as `(A X^T)^T`, so the result is column-major: BLAS is up to a quarter faster if the long
    side is the last one of the matrix that it writes. Autograd uses the same layout in the backward pass.
    """
    rows = x.reshape(-1, x.shape[-1])
    return (thin @ rows.mT).mT if is_on_cpu(x) else rows @ thin.mT


def low_rank_linear(x: Tensor, right: Tensor, left: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `Y = (X R^T) L^T + b` (`[..., O]`) for `x` (`[..., I]`), `R` (`K x I`), `L` (`O x K`) and `b` (`[O]`)."""
    return no_view(F.linear(thin_matmul(x, right), left, bias), (*x.shape[:-1], left.shape[0]))


def no_view(result: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the result of an autograd Function in `shape`, so that models may change it in place (timm's BEiT does).

    Autograd refuses that for a view. torch.matmul shapes its result in the same way.
    """
    return torch.ops.aten._unsafe_view(result, shape)
