"""Factors of a weight that are best for its outputs, or for the model's features (`method.init=output`, `features`).

For inputs `x` of covariance `Cov` (`I x I`), the output error `E ||(Id - L L^T) W (x - mean)||^2` of an orthonormal `L`
(`O x K`) is least for the leading eigenvectors of `W Cov W^T`; it then is the sum of the other eigenvalues. This is
SVD-LLM's whitening with an orthonormal left factor (`basis_from_*`). `project_*` also weigh the outputs, by a
sensitivity `H` (`O x O`). Functions `*_inputs` need eigenvectors of `I x I` matrices and are meant for `I <= O`,
functions `*_outputs` those of `O x O` matrices. All tensors are meant to be float64.
"""

import torch
from torch import Tensor

from wasi.linalg.rank import gram_energies, truncate

# Added to the diagonal of `Cov`, relative to the inputs' mean square: directions in which the data have no variance are
# then ordered by the weight's own energy, far below directions in which they have, and far above rounding.
RIDGE = 1e-9


def basis_from_inputs(weight: Tensor, covariance: Tensor, ridge: float | Tensor, rank: int) -> Tensor:
    """Return the leading `rank` eigenvectors (`O x K`, orthonormal) of `W (Cov + ridge Id) W^T`; cheap for `I <= O`.

    They are the left singular vectors of `W s`, with the Cholesky factor `s` of `Cov + ridge Id = s s^T`.

    Args:
        weight: `W`, `O x I`; covariance: `Cov`, `I x I`; ridge: above 0, in the units of `Cov`; rank: `K`, at most `I`.
    """
    s = torch.linalg.cholesky(_plus_diagonal(covariance, ridge))
    return truncate(weight @ s, 1.0, rank)[0]


def basis_from_outputs(weight: Tensor, covariance: Tensor, ridge: float | Tensor, rank: int) -> Tensor:
    """Return the eigenvectors of `basis_from_inputs` from the covariance of the outputs; cheap for `O <= I`.

    Args:
        weight: `W`, `O x I`; covariance: `W Cov W^T`, `O x O`; ridge: above 0, in the units of `Cov`.
        rank: `K`, at most `O`.
    """
    return _leading(covariance + ridge * (weight @ weight.mT), rank)


def project_inputs(
    weight: Tensor, moment: Tensor, sensitivity: Tensor, ridge: Tensor, damping: Tensor, rank: int
) -> tuple[Tensor, Tensor]:
    """Return `L` (`O x K`, orthonormal) and `R` (`K x I`) whose product `W'` minimises `tr H (W' - W) Cov (W' - W)^T`.

    With `Cov = s s^T` and `V` (`I x K`) the leading eigenvectors of `s^T (W^T H W) s`, the minimiser of rank `K` is
    `W' = W s V V^T s^-1`. It is cheap for `I <= O`, and needs no `H` (`O x O`) beside `W^T H W`.

    Args:
        weight: `W`, `O x I`; moment: `Cov`, `I x I`; sensitivity: `W^T H W`, `I x I`.
        ridge: above 0, added to the diagonal of `Cov`; damping: added to the diagonal of `H`, by `damping W^T W`.
        rank: `K`, at most `I`.
    """
    s, matrix = _whitened_input_gram(weight, moment, sensitivity, ridge, damping)
    vectors = _leading(matrix, rank)
    left, t = torch.linalg.qr(weight @ (s @ vectors))
    return left, t @ torch.linalg.solve_triangular(s, vectors.mT, upper=False, left=False)


def project_outputs(
    weight: Tensor, moment: Tensor, sensitivity: Tensor, ridge: Tensor, damping: Tensor, rank: int
) -> tuple[Tensor, Tensor]:
    """Return the factors of `project_inputs` from the moment of the outputs; cheap for `O <= I`.

    With `H = t t^T` and `U` (`O x K`) the leading eigenvectors of `t^T (W Cov W^T) t`, `W' = t^-T U U^T t^T W`.

    Args:
        moment: `W Cov W^T`, `O x O`; sensitivity: `H`, `O x O`; rank: `K`, at most `O`; others as for `project_inputs`.
    """
    t, matrix = _whitened_output_gram(weight, moment, sensitivity, ridge, damping)
    vectors = _leading(matrix, rank)
    left, u = torch.linalg.qr(torch.linalg.solve_triangular(t.mT, vectors, upper=True))
    return left, u @ (t @ vectors).mT @ weight


def losses_from_inputs(weight: Tensor, moment: Tensor, sensitivity: Tensor, ridge: Tensor, damping: Tensor) -> Tensor:
    """Return the errors (`[I]`, non-increasing) that dropping each direction adds in `project_inputs`.

    The minimum of `project_inputs` at rank `K` is the sum of all but the first `K`. Arguments as there.
    """
    return _eigenvalues(_whitened_input_gram(weight, moment, sensitivity, ridge, damping)[1])


def losses_from_outputs(weight: Tensor, moment: Tensor, sensitivity: Tensor, ridge: Tensor, damping: Tensor) -> Tensor:
    """Return the errors (`[O]`, non-increasing) that dropping each direction adds in `project_outputs`."""
    return _eigenvalues(_whitened_output_gram(weight, moment, sensitivity, ridge, damping)[1])


def _whitened_input_gram(
    weight: Tensor, moment: Tensor, sensitivity: Tensor, ridge: Tensor, damping: Tensor
) -> tuple[Tensor, Tensor]:
    """`s` (lower triangular) of `Cov = s s^T`, and `s^T (W^T H W) s`, both `I x I`, with ridge and damping."""
    s = torch.linalg.cholesky(_plus_diagonal(moment, ridge))
    return s, s.mT @ (sensitivity + damping * (weight.mT @ weight)) @ s


def _whitened_output_gram(
    weight: Tensor, moment: Tensor, sensitivity: Tensor, ridge: Tensor, damping: Tensor
) -> tuple[Tensor, Tensor]:
    """`t` (lower triangular) of `H = t t^T`, and `t^T (W Cov W^T) t`, both `O x O`, with ridge and damping."""
    t = torch.linalg.cholesky(_plus_diagonal(sensitivity, damping))
    return t, t.mT @ (moment + ridge * (weight @ weight.mT)) @ t


def _eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues of a positive semi-definite matrix, non-increasing; negative ones, due to rounding, become 0."""
    return gram_energies(torch.linalg.eigvalsh(matrix))


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """Leading `rank` eigenvectors of a symmetric matrix, as columns by decreasing eigenvalue."""
    return torch.linalg.eigh(matrix)[1][:, -rank:].flip(-1)


def _plus_diagonal(matrix: Tensor, value: float | Tensor) -> Tensor:
    return matrix + value * torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
