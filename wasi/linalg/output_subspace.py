"""The subspace of a weight that matters most for what the layer puts out on given inputs (`method.init=output`).

With inputs `x` of covariance `C` (`I x I`), the error `E ||(I - L L^T) W (x - mean)||^2` of an orthonormal `L`
(`O x K`) is least, the sum of the discarded eigenvalues, at the leading eigenvectors of `W C W^T`. It is SVD-LLM's
whitening with an orthonormal left factor. Everything here is meant for float64.
"""

import torch
from torch import Tensor

from wasi.linalg.rank import gram_energies, truncate

# Added to the diagonal of `C`, relative to the inputs' mean square: directions that the data does not touch are
# then ordered by the weight's own energy, far below all that it does touch and far above rounding.
RIDGE = 1e-9


def basis_from_inputs(weight: Tensor, covariance: Tensor, ridge: float | Tensor, rank: int) -> Tensor:
    """Leading `rank` eigenvectors (`O x K`, orthonormal) of `W (C + ridge) W^T`, the cheap way for `I <= O`.

    Args:
        weight: `W`, `O x I`; covariance: `C`, `I x I`; ridge: above 0, in the units of `C`; rank: at most `I`.
    """
    s = torch.linalg.cholesky(_plus_diagonal(covariance, ridge))
    return truncate(weight @ s, 1.0, rank)[0]


def basis_from_outputs(weight: Tensor, covariance: Tensor, ridge: float | Tensor, rank: int) -> Tensor:
    """The eigenvectors that `basis_from_inputs` finds, from the outputs' `W C W^T` (`O x O`): cheap for `O <= I`.

    Args:
        covariance: `W C W^T`, `O x O`; ridge: above 0, in the units of `C`; rank: at most `O`.
    """
    return _leading(covariance + ridge * (weight @ weight.mT), rank)


def project_inputs(
    weight: Tensor, moment: Tensor, sensitivity: Tensor, ridge: Tensor, damping: Tensor, rank: int
) -> tuple[Tensor, Tensor]:
    """`L` (`O x K`, orthonormal) and `R` (`K x I`) of the `W'` that makes `tr S (W' - W) C (W' - W)^T` least.

    The cheap way for `I <= O`, where `S` (`O x O`) need not exist. With `C = s s^T` and `V` the leading
    eigenvectors of `s^T (W^T S W) s`, it is `W' = W s V V^T s^-1`.

    Args:
        weight: `W`, `O x I`; moment: `C`, `I x I`; sensitivity: `W^T S W`, `I x I`; ridge: added to the diagonal
            of `C`, above 0; damping: to that of `S`; rank: at most `I`.
    """
    s, matrix = _seen_from_inputs(weight, moment, sensitivity, ridge, damping)
    vectors = _leading(matrix, rank)
    left, t = torch.linalg.qr(weight @ (s @ vectors))
    return left, t @ torch.linalg.solve_triangular(s, vectors.mT, upper=False, left=False)


def project_outputs(
    weight: Tensor, moment: Tensor, sensitivity: Tensor, ridge: Tensor, damping: Tensor, rank: int
) -> tuple[Tensor, Tensor]:
    """The factors that `project_inputs` finds, in the way that is cheap for `O <= I`.

    With `S = t t^T` and `U` the leading eigenvectors of `t^T (W C W^T) t`, it is `W' = t^-T U U^T t^T W`.

    Args:
        moment: `W C W^T`, `O x O`; sensitivity: `S`, `O x O`; the others as for `project_inputs`.
    """
    t, matrix = _seen_from_outputs(weight, moment, sensitivity, ridge, damping)
    vectors = _leading(matrix, rank)
    left, u = torch.linalg.qr(torch.linalg.solve_triangular(t.mT, vectors, upper=True))
    return left, u @ (t @ vectors).mT @ weight


def damages_from_inputs(weight: Tensor, moment: Tensor, sensitivity: Tensor, ridge: Tensor, damping: Tensor) -> Tensor:
    """What each direction adds to the error of `project_inputs` where it is left out, non-increasing, `[I]`.

    The error at rank `K` is the sum of all but the first `K`. Arguments as for `project_inputs`.
    """
    return _eigenvalues(_seen_from_inputs(weight, moment, sensitivity, ridge, damping)[1])


def damages_from_outputs(weight: Tensor, moment: Tensor, sensitivity: Tensor, ridge: Tensor, damping: Tensor) -> Tensor:
    """What each direction adds to the error of `project_outputs` where it is left out, non-increasing, `[O]`."""
    return _eigenvalues(_seen_from_outputs(weight, moment, sensitivity, ridge, damping)[1])


def _seen_from_inputs(
    weight: Tensor, moment: Tensor, sensitivity: Tensor, ridge: Tensor, damping: Tensor
) -> tuple[Tensor, Tensor]:
    """`s` (lower triangular) of `C = s s^T`, and `s^T (W^T S W) s`."""
    s = torch.linalg.cholesky(_plus_diagonal(moment, ridge))
    return s, s.mT @ (sensitivity + damping * (weight.mT @ weight)) @ s


def _seen_from_outputs(
    weight: Tensor, moment: Tensor, sensitivity: Tensor, ridge: Tensor, damping: Tensor
) -> tuple[Tensor, Tensor]:
    """`t` (lower triangular) of `S = t t^T`, and `t^T (W C W^T) t`."""
    t = torch.linalg.cholesky(_plus_diagonal(sensitivity, damping))
    return t, t.mT @ (moment + ridge * (weight @ weight.mT)) @ t


def _eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues of a positive semi-definite matrix, non-increasing; what rounding makes negative is 0."""
    return gram_energies(torch.linalg.eigvalsh(matrix))


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """Leading `rank` eigenvectors, as columns, of a symmetric matrix."""
    return torch.linalg.eigh(matrix)[1][:, -rank:].flip(-1)


def _plus_diagonal(matrix: Tensor, value: float | Tensor) -> Tensor:
    return matrix + value * torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
