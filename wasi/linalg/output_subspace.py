"""Factors of a weight that are best for its outputs, or for the model's features (`method.init=output`, `features`).

For inputs `x` of covariance `Cov` (`I x I`), and outputs that are weighed by `H` (`O x O`), the error of a weight `W'`
is `E |(W' - W)(x - mean)|_H^2 = tr H (W' - W) Cov (W' - W)^T`. With `H = Id`, the best one of rank `K` is `L L^T W` for
the leading eigenvectors `L` (`O x K`) of `W Cov W^T`: SVD-LLM's whitening with an orthonormal left factor.

Functions take `Cov` and `W^T H W`, both `I x I`, or, with `of_outputs`, `W Cov W^T` and `H`, both `O x O`. They need
eigenvectors of matrices of that size, so `of_outputs` is meant for `O <= I`. All tensors are meant to be float64.
"""

import torch
from torch import Tensor

from wasi.linalg.rank import gram_energies

# Added to the diagonal of `Cov`, relative to the inputs' mean square: directions in which the data have no variance are
# then ordered by the weight's own energy, far below directions in which they have, and far above rounding.
RIDGE = 1e-9


def project(
    weight: Tensor, moment: Tensor, sensitivity: Tensor, ridge: Tensor, damping: Tensor, of_outputs: bool, rank: int
) -> tuple[Tensor, Tensor]:
    """Return `L` (`O x K`, orthonormal) and `R` (`K x I`) whose product `W'` has the least error.

    With `Cov = s s^T` and `V` (`I x K`) the leading eigenvectors of `s^T (W^T H W) s`, it is `W' = W s V V^T s^-1`.
    With `H = t t^T` and `U` (`O x K`) the leading eigenvectors of `t^T (W Cov W^T) t`, it is `W' = t^-T U U^T t^T W`.

    Args:
        weight: `W`, `O x I`; moment: `Cov`, or `W Cov W^T`; sensitivity: `W^T H W`, or `H`, or a scalar 0.
        ridge: a scalar above 0, added to the diagonal of `Cov`; damping: a scalar, added to the diagonal of `H`.
        of_outputs: whether moment and sensitivity are `O x O`; rank: `K`, at most the size of these.
    """
    factor, gram = _whitened_gram(weight, moment, sensitivity, ridge, damping, of_outputs)
    vectors = torch.linalg.eigh(gram)[1][:, -rank:].flip(-1)
    if of_outputs:
        left, u = torch.linalg.qr(torch.linalg.solve_triangular(factor.mT, vectors, upper=True))
        return left, u @ (factor @ vectors).mT @ weight
    left, u = torch.linalg.qr(weight @ (factor @ vectors))
    return left, u @ torch.linalg.solve_triangular(factor, vectors.mT, upper=False, left=False)


def direction_losses(
    weight: Tensor, moment: Tensor, sensitivity: Tensor, ridge: Tensor, damping: Tensor, of_outputs: bool
) -> Tensor:
    """Return the errors (`[I]`, or `[O]`, non-increasing) that dropping each direction adds in `project`.

    The least error at rank `K` is the sum of all but the first `K`. Arguments are those of `project`.
    """
    _, gram = _whitened_gram(weight, moment, sensitivity, ridge, damping, of_outputs)
    return gram_energies(torch.linalg.eigvalsh(gram))


def _whitened_gram(
    weight: Tensor, moment: Tensor, sensitivity: Tensor, ridge: Tensor, damping: Tensor, of_outputs: bool
) -> tuple[Tensor, Tensor]:
    """Return `s` and `s^T (W^T H W) s`, or `t` and `t^T (W Cov W^T) t`, with ridge and damping; see `project`."""
    eye = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    if of_outputs:
        factor, other = torch.linalg.cholesky(sensitivity + damping * eye), moment + ridge * (weight @ weight.mT)
    else:
        factor, other = torch.linalg.cholesky(moment + ridge * eye), sensitivity + damping * (weight.mT @ weight)
    return factor, factor.mT @ other @ factor
