"""The subspace of a weight that matters most for what the layer puts out on given inputs (`method.init=output`).

With inputs `x` of covariance `C` (`I x I`), the error `E ||(I - L L^T) W (x - mean)||^2` of an orthonormal `L`
(`O x K`) is least, the sum of the discarded eigenvalues, at the leading eigenvectors of `W C W^T`. It is SVD-LLM's
whitening with an orthonormal left factor. Everything here is meant for float64.
"""

import torch
from torch import Tensor

# Added to the diagonal of `C`, relative to the inputs' mean square: directions that the data does not touch are
# then ordered by the weight's own energy, far below all that it does touch and far above rounding.
RIDGE = 1e-9


def basis_from_inputs(weight: Tensor, covariance: Tensor, ridge: float | Tensor, rank: int) -> Tensor:
    """Leading `rank` eigenvectors (`O x K`, orthonormal) of `W (C + ridge) W^T`, the cheap way for `I <= O`.

    Args:
        weight: `W`, `O x I`; covariance: `C`, `I x I`; ridge: above 0, in the units of `C`; rank: at most `I`.
    """
    s = torch.linalg.cholesky(_plus_diagonal(covariance, ridge))
    return torch.linalg.svd(weight @ s, full_matrices=False)[0][:, :rank]


def basis_from_outputs(weight: Tensor, covariance: Tensor, ridge: float | Tensor, rank: int) -> Tensor:
    """The same from the covariance `W C W^T` (`O x O`) of the outputs, the cheap way for `O <= I`."""
    vectors = torch.linalg.eigh(covariance + ridge * (weight @ weight.mT))[1]
    return vectors[:, -rank:].flip(-1)


def lost_output(left: Tensor, output: Tensor) -> Tensor:
    """`(I - L L^T) y`, the part of an output `y` (`[O]`) outside the span of `L` (`O x K`)."""
    return output - left @ (left.mT @ output)


def _plus_diagonal(matrix: Tensor, value: float | Tensor) -> Tensor:
    return matrix + value * torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
