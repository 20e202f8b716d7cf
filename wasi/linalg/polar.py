"""Polar factors of tall matrices: their nearest matrices with orthonormal columns."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from wasi.linalg import batched
from wasi.linalg.orthonormal import cholesky

_NOISE = 1e-6  # singular values below this share of the largest are noise


def polar_factors(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return the polar factor `M (M^T M)^(-1/2)` of each `M` (`O x r`, `r <= O`), the nearest orthonormal matrix.

    Singular values of `M` below 1e-6 of its largest are noise: they are damped instead of being raised to 1. The
    inverse roots of the Gram matrices (`r x r`) are computed in float64: on a CPU one by one from eigendecompositions;
    on an accelerator, where those would need a synchronisation, all together by `halley_inverse_root`.

    The polar factor of a matrix with an entry that is not finite is NaN.

    Raises:
        torch.linalg.LinAlgError: an eigendecomposition did not converge, which such an entry can cause on a CPU.
    """
    if not matrices:
        return []
    grams = [wide.mT @ wide for wide in (matrix.double() for matrix in matrices)]
    if batched.is_on_cpu(grams[0]):
        roots = [inverse_root(gram) for gram in grams]
    else:
        padded = torch.vmap(halley_inverse_root)(batched.stacked(grams)).to(matrices[0].dtype)
        roots = [root[: len(gram), : len(gram)] for root, gram in zip(padded, grams, strict=True)]
    return [matrix @ root.to(matrix.dtype) for matrix, root in zip(matrices, roots, strict=True)]


def inverse_root(gram: Tensor) -> Tensor:
    """Return `(G + 1e-12 s^2 I)^(-1/2)` for `G = M^T M` (`r x r`, float64), with `s` the norm `||M||_2`."""
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    scale = (values + _NOISE**2 * values[-1]).clamp_min(torch.finfo(torch.float32).tiny).rsqrt()
    return (vectors * scale) @ vectors.mT


def halley_inverse_root(gram: Tensor) -> Tensor:
    """Return `(G + 1e-12 ||G||_F I)^(-1/2)` for `G = M^T M` (`r x r`, float64), by products and Cholesky factors only.

    The dynamically weighted Halley iteration of Nakatsukasa, Bai and Gygi (SIAM J. Matrix Anal. Appl. 31, 2010) is
    `X <- X F` with `F = (b / c) I + (a - b / c) (I + c X^T X)^-1`, from `X = M / sqrt(||G||_F)`. Here `S = X^T X` is
    iterated as `S <- F S F`, and the product of all `F` is the inverse root, so every matrix is `r x r`.
    """
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    norm = torch.linalg.matrix_norm(gram).clamp_min(torch.finfo(torch.float32).tiny)
    s, product = gram / norm + _NOISE**2 * identity, identity
    for a, b, c in _HALLEY_WEIGHTS:
        inverse = torch.cholesky_solve(identity, cholesky(identity + c * s))
        f = b / c * identity + (a - b / c) * inverse
        s, product = f @ s @ f, product @ f
    return product * norm.rsqrt()


def _halley_weights(least: float) -> Iterator[tuple[float, float, float]]:
    """Yield `a, b, c` of each iteration, best for singular values from `least` to 1, until all are 1 up to rounding."""
    while 1 - least > 1e-14:
        d = (4 * (1 - least**2) / least**4) ** (1 / 3)
        a = (1 + d) ** 0.5 + 0.5 * (8 - 4 * d + 8 * (2 - least**2) / (least**2 * (1 + d) ** 0.5)) ** 0.5
        b = (a - 1) ** 2 / 4
        c = a + b - 1
        yield a, b, c
        least = min(1.0, least * (a + b * least**2) / (1 + c * least**2))


_HALLEY_WEIGHTS = tuple(_halley_weights(_NOISE))  # of five iterations
