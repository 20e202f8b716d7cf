"""Polar factors of tall matrices: their nearest matrices with orthonormal columns."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from wasi.linalg import batched
from wasi.linalg.orthonormal import cholesky, cholesky_solve

_NOISE = 1e-6  # singular values below this share of a matrix's norm are noise


def polar_factors(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return the polar factor `M (M^T M)^(-1/2)` of each `M` (`O x r`, `r <= O`), the nearest orthonormal matrix.

    Singular values of `M` below 1e-6 of its norm are noise: they are damped instead of being raised to 1. The inverse
    roots of the Gram matrices (`r x r`) are computed in float64: on a CPU one by one from eigendecompositions
    (`inverse_root`), on an accelerator, where these would make the host wait, in batches by `halley_inverse_root`.

    The polar factor of a matrix with an entry that is not finite is NaN on an accelerator.

    Raises:
        torch.linalg.LinAlgError: such a matrix is on the CPU, and its eigendecomposition fails, as in most cases.
    """
    found: list[Tensor] = []
    if matrices and batched.is_on_cpu(matrices[0]):
        for matrix in matrices:
            wide = matrix.double()
            found.append(matrix @ inverse_root(wide.mT @ wide).to(matrix.dtype))
        return found
    grams = [wide.mT @ wide for wide in (matrix.double() for matrix in matrices)]
    roots = dict(batched.in_padded_batches(halley_inverse_root, grams))
    return [matrix @ roots[number].to(matrix.dtype) for number, matrix in enumerate(matrices)]


def inverse_root(gram: Tensor) -> Tensor:
    """Return `(G + 1e-12 ||G||_2 I)^(-1/2)` for `G = M^T M` (`r x r`, float64) by an eigendecomposition."""
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    scale = (values + _NOISE**2 * values[-1]).clamp_min(torch.finfo(torch.float32).tiny).rsqrt()
    return (vectors * scale) @ vectors.mT


def halley_inverse_root(gram: Tensor) -> Tensor:
    """Return `(G + 1e-12 ||G||_F I)^(-1/2)` for `G = M^T M` (`r x r`, float64), by products and Cholesky factors only.

    The dynamically weighted Halley iteration of Nakatsukasa, Bai and Gygi (SIAM J. Matrix Anal. Appl. 31, 2010) is
    `X <- X F` with `F = (b / c) I + (a - b / c) (I + c X^T X)^-1`; it leads from an `X` with singular values between
    1e-6 and 1 to its polar factor. Here `S = X^T X` is iterated as `S <- F S F`, from `S = G / ||G||_F + 1e-12 I`. The
    product of all `F`, divided by `sqrt(||G||_F)`, is the inverse root.
    """
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    norm = torch.linalg.matrix_norm(gram).clamp_min(torch.finfo(torch.float32).tiny)
    s = gram / norm + _NOISE**2 * identity
    product = f = _halley_factor(s, identity, *_HALLEY_WEIGHTS[0])
    for weights in _HALLEY_WEIGHTS[1:]:
        s = f @ s @ f
        f = _halley_factor(s, identity, *weights)
        product = product @ f
    return product * norm.rsqrt()


def _halley_factor(s: Tensor, identity: Tensor, a: float, b: float, c: float) -> Tensor:
    """Return `F = (b / c) I + (a - b / c) (I + c S)^-1` of `halley_inverse_root`."""
    return b / c * identity + (a - b / c) * cholesky_solve(identity, cholesky(identity + c * s))


def _halley_weights(least: float) -> Iterator[tuple[float, float, float]]:
    """Yield `a, b, c` of each iteration, the best for singular values from `least` to 1, until these are 1 in float32.

    The formulas are those of the paper, with `least` for its `l`.
    """
    while 1 - least > 1e-9:
        d = (4 * (1 - least**2) / least**4) ** (1 / 3)
        a = (1 + d) ** 0.5 + 0.5 * (8 - 4 * d + 8 * (2 - least**2) / (least**2 * (1 + d) ** 0.5)) ** 0.5
        b = (a - 1) ** 2 / 4
        c = a + b - 1
        yield a, b, c
        least = min(1.0, least * (a + b * least**2) / (1 + c * least**2))


_HALLEY_WEIGHTS = tuple(_halley_weights(_NOISE))  # of four iterations
