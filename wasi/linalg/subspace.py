"""Steps on a weight held as `W = L R`: Algorithm 1 of the paper, and the same step without any `O x I` matrix.

`L` is `O x K` with orthonormal columns, `R` is `K x I`. See `docs/method.md` for the notation and for the derivation of
`fold_`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from wasi.linalg import batched
from wasi.linalg.orthonormal import cholesky, qr_near_orthonormal, qr_positive

# Up to this `||E||_F`, `fold_` cancels the stretch `E` of `L^T L` to first order: `E^2 / 4` is left, at most 2.5e-5.
_SMALL_STRETCH = 1e-2


def algorithm_1(left: Tensor, right: Tensor, d_weight: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """Take one step of Algorithm 1 of arXiv 2510.09160 on dense matrices: a gradient step and one subspace iteration.

    The published listing lacks the last line, `R+ = L+^T W+`, and pairs the new `L` with the old `R`. Tests compare
    `fold_` and `tangent_gradient` with this function, from which they differ by `O(lr^2)`; training does not call it.

    Args:
        left: `L`, `O x K`, orthonormal columns; right: `R`, `K x I`; d_weight: `dW = dLoss/dW`, `O x I`.

    Returns:
        `L+` (`O x K`, orthonormal columns) and `R+` (`K x I`).
    """
    w_next = left @ right - lr * d_weight  # W+ = L R - lr dW      O x I
    r_hat = left.mT @ w_next  #              R^ = L^T W+           K x I
    l_next, _ = qr_positive(w_next @ r_hat.mT)  # L+ = orth(W+ R^^T)  O x K
    return l_next, l_next.mT @ w_next  #     R+ = L+^T W+          K x I


def fold_(
    left: Tensor, right: Tensor, update: Tensor, basis: Tensor, decay: float = 1.0, p: Tensor | None = None
) -> Tensor:
    """Take a step `W + C U^T` into `L` and `R`, in place; its rows lie in the span of a feature basis `U`.

    With `A = L^T C` (`K x r`), `Z = C - L A` (`O x r`) and `P = (R R^T + delta I)^-1 R U` (`K x r`), `delta` being the
    damping of `damped_solve`::

        L <- L + Z P^T,    R <- decay R + A U^T

    adds to `L R` the projection of `C U^T` on the tangent space of the matrices of rank `K`, as one iteration of
    Algorithm 1 does, up to terms quadratic in the step. `L^T L = I` becomes `I + E` with the stretch `E = P Z^T Z P^T`.
    While `||E||_F <= 1e-2`, `A' = A + P Z^T Z / 2` and `Z' = C - L A'` take the places of `A` and `Z`, which leaves
    `I + E^2 / 4`.

    Args:
        left: `L`, `O x K`; right: `R`, `K x I`.
        update: `C`, `O x r`, the step in coordinates of the basis; basis: `U`, `I x r`, orthonormal columns.
        decay: the factor by which weight decay multiplies `R`, and so `W` and the part `Z P^T R` of the step.
        p: the `P` of an `R` a few steps earlier, used instead of solving for it; the step then differs from that
            projection by further quadratic terms.

    Returns:
        `P` (`K x r`).
    """
    if p is None:
        p = damped_solve(right @ right.mT, right @ basis)  # (R R^T + delta I)^-1 R U
    _add_(left, right, update, basis, decay, _corrected(left.mT @ update, update.mT @ update, p), p)
    return p


def fold_all_(
    weights: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], decays: Sequence[float], ps: Sequence[Tensor | None]
) -> list[Tensor]:
    """Call `fold_` for several weights, with all their `K x K` and `K x r` matrices in one batch.

    For accelerators, see `wasi.linalg.batched`.

    Args:
        weights: for each weight, the first four arguments of `fold_`; decays, ps: its `decay` and `p`.

    Returns:
        The `P` of each weight.
    """
    found = dict(enumerate(ps))
    missing = [number for number, p in found.items() if p is None]
    if missing:
        rights, bases = ([weights[number][index] for number in missing] for index in (1, 3))
        grams = batched.stacked([right @ right.mT for right in rights])
        rows = batched.stacked([right @ basis for right, basis in zip(rights, bases, strict=True)])
        solved = torch.vmap(damped_solve)(grams, rows)
        for number, right, basis, p in zip(missing, rights, bases, solved, strict=True):
            found[number] = p[: len(right), : basis.shape[1]]  # without the padding of the batch
    used = [p for p in found.values() if p is not None]
    products = [(left.mT @ update, update.mT @ update) for left, _, update, _ in weights]
    stacks = [batched.stacked(matrices) for matrices in (*zip(*products, strict=True), used)]
    a_s = torch.vmap(_corrected)(*stacks)
    for (left, right, update, basis), decay, a, p in zip(weights, decays, a_s, used, strict=True):
        _add_(left, right, update, basis, decay, a[: p.shape[0], : p.shape[1]], p)
    return used


def _corrected(a: Tensor, square: Tensor, p: Tensor) -> Tensor:
    """`A + P Z^T Z / 2` (`K x r`) of `fold_` if the stretch is small, else `A`; from `A = L^T C`, `C^T C` and `P`."""
    normal = square - a.mT @ a  #     Z^T Z = C^T C - A^T A, as L is orthonormal
    stretch = normal @ (p.mT @ p)
    is_small = (stretch * stretch.mT).sum() <= _SMALL_STRETCH**2  # ||E||_F^2 = tr (Z^T Z P^T P)^2
    return a + 0.5 * is_small * (p @ normal)


def _add_(left: Tensor, right: Tensor, update: Tensor, basis: Tensor, decay: float, a: Tensor, p: Tensor) -> None:
    left.addmm_(torch.addmm(update, left, a, alpha=-1), p.mT)  # L <- L + (C - L A) P^T = L + Z P^T
    right.addmm_(a, basis.mT, beta=decay)  #                     R <- decay R + A U^T


def tangent_gradient(d_left: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return the direction `D = (I - L L^T) dL (R R^T + delta I)^-1` (`O x K`) that replaces `dL` in a tangent step.

    With `dL = dW R^T` and the unchanged `dR = L^T dW`, `D R + L dR` is the projection of `dW` on the tangent space of
    the matrices of rank `K` (up to the damping `delta` of `damped_solve`). So plain SGD with `D` and `dR` takes a step
    of Algorithm 1 up to terms quadratic in the step.

    Args:
        d_left: `dL`, `O x K`; left: `L`, `O x K`, orthonormal columns; right: `R`, `K x I`.

    Returns:
        `D`, and the squared norm of `D R` (a scalar, without damping exact), computed as `tr dL^T (I - L L^T) D`.
    """
    normal = d_left - left @ (left.mT @ d_left)
    direction = damped_solve(right @ right.mT, normal.mT).mT
    return direction, (normal * direction).sum()


def retract(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors of the same product with an orthonormal left one: `L = Q T` (QR), so `L R = Q (T R)`.

    `T` has a positive diagonal, so a nearly orthonormal `L` changes little.

    Args:
        left: `L`, `O x K`, nearly orthonormal columns; right: `R`, `K x I`.

    Returns:
        `Q` (`O x K`) and `T R` (`K x I`).
    """
    q, t = qr_near_orthonormal(left)
    return q, t @ right


def damped_solve(gram: Tensor, rows: Tensor) -> Tensor:
    """Return `(gram + delta I)^-1 rows` (`K x r`) by Cholesky; overwrites `gram`.

    The Tikhonov damping `delta` is sqrt(eps) / 3 of the largest eigenvalue (1e-4 in float32, estimated by power
    iteration), so that directions in which the weight is nearly zero take a shorter step.

    Args:
        gram: `R R^T`, `K x K`, positive semi-definite; rows: `K x r`.
    """
    v = gram.diagonal().sqrt()
    for _ in range(3):  # power iteration: `||v||` approaches the largest eigenvalue from below
        v = gram @ (v / torch.linalg.vector_norm(v))
    gram.diagonal().add_(torch.finfo(gram.dtype).eps ** 0.5 / 3 * torch.linalg.vector_norm(v))
    return torch.cholesky_solve(rows, cholesky(gram))


def polar_factors(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return the polar factor `M (M^T M)^(-1/2)` of each `M` (`O x r`, `r <= O`), the nearest orthonormal matrix.

    They are computed from eigendecompositions of the `r x r` Gram matrices in float64. Singular values of `M` below
    1e-6 of its largest are noise: they are damped instead of being raised to 1.

    Raises:
        torch.linalg.LinAlgError: an entry of a matrix is not finite.
    """
    wide = [matrix.double() for matrix in matrices]
    roots = batched.computed_on_cpu(_inverse_root, [matrix.mT @ matrix for matrix in wide])
    return [matrix @ root.to(matrix.dtype) for matrix, root in zip(matrices, roots, strict=True)]


def _inverse_root(gram: Tensor) -> Tensor:
    """`(M^T M + 1e-12 s^2 I)^(-1/2)` for the Gram matrix `M^T M` (`r x r`), `s` being the largest singular value."""
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    scale = (values + 1e-12 * values[-1]).clamp_min(torch.finfo(torch.float32).tiny).rsqrt()
    return (vectors * scale) @ vectors.mT
