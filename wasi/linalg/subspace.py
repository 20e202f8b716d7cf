"""Steps on a weight held as `W = L R`: Algorithm 1 of the paper, and the same step without any `O x I` matrix.

`L` is `O x K` with columns that are orthonormal, between retractions nearly so; `R` is `K x I`. See `docs/method.md`
for the notation and for the derivation of `fold_`.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from wasi.linalg import batched
from wasi.linalg.orthonormal import cholesky, cholesky_solve, qr_near_orthonormal, qr_positive

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
    damping of `damped_cholesky`::

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
) -> Iterator[Tensor]:
    """Call `fold_` for several weights and yield the `P` of each; a weight is changed before its `P` is yielded.

    On an accelerator, the `K x K` and `K x r` matrices are computed in batches.

    Args:
        weights: for each weight, the first four arguments of `fold_`; decays, ps: its `decay` and `p`.
    """
    if not weights or batched.is_on_cpu(weights[0][0]):
        yield from (fold_(*weight, decay, p) for weight, decay, p in zip(weights, decays, ps, strict=True))
        return
    found: dict[int, Tensor] = {}
    for numbers in batched.similar([max(len(right), update.shape[1]) for _, right, update, _ in weights]):
        folded = _fold_batch_([weights[n] for n in numbers], [decays[n] for n in numbers], [ps[n] for n in numbers])
        found |= zip(numbers, folded, strict=True)
    yield from (found[number] for number in range(len(weights)))


def _fold_batch_(
    weights: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], decays: Sequence[float], ps: Sequence[Tensor | None]
) -> list[Tensor]:
    """Call `fold_` for weights whose matrices are of similar sizes, as one batch, and return the `P` of each."""
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
    """Return `A + P Z^T Z / 2` (`K x r`) of `fold_` if the stretch is small, else `A`.

    Args:
        a: `A = L^T C`, `K x r`; square: `C^T C`, `r x r`; p: `P`, `K x r`.
    """
    normal = square - a.mT @ a  #     Z^T Z = C^T C - A^T A, as L is orthonormal
    stretch = normal @ (p.mT @ p)
    is_small = (stretch * stretch.mT).sum() <= _SMALL_STRETCH**2  # ||E||_F^2 = tr (Z^T Z P^T P)^2
    return a + 0.5 * is_small * (p @ normal)


def _add_(left: Tensor, right: Tensor, update: Tensor, basis: Tensor, decay: float, a: Tensor, p: Tensor) -> None:
    left.addmm_(torch.addmm(update, left, a, alpha=-1), p.mT)  # L <- L + (C - L A) P^T = L + Z P^T
    right.addmm_(a, basis.mT, beta=decay)  #                     R <- decay R + A U^T


def tangent_gradient(
    d_left: Tensor, left: Tensor, right: Tensor, lower: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the direction `D = (I - L L^T) dL (R R^T + delta I)^-1` (`O x K`) that replaces `dL` in a tangent step.

    With `dL = dW R^T` and the unchanged `dR = L^T dW`, `D R + L dR` is the projection of `dW` on the tangent space of
    the matrices of rank `K` (up to the damping `delta` of `damped_cholesky`). So plain SGD with `D` and `dR` takes a
    step of Algorithm 1 up to terms quadratic in the step.

    Args:
        d_left: `dL`, `O x K`; left: `L`, `O x K`, orthonormal columns; right: `R`, `K x I`.
        lower: `damped_cholesky(R R^T)`, if it is known already.

    Returns:
        `D`, and the squared norm of `D R` (a scalar, without damping exact), computed as `tr dL^T (I - L L^T) D`.
    """
    normal = d_left - left @ (left.mT @ d_left)
    lower = damped_cholesky(right @ right.mT) if lower is None else lower
    direction = torch.cholesky_solve(normal.mT, lower).mT
    return direction, (normal * direction).sum()


def tangent_gradients(weights: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `tangent_gradient` of each `dL`, `L` and `R`; on an accelerator, the `R R^T` are factored in batches."""
    if not weights or batched.is_on_cpu(weights[0][0]):
        yield from (tangent_gradient(*weight) for weight in weights)
        return
    lowers = dict(batched.in_padded_batches(damped_cholesky, [right @ right.mT for *_, right in weights]))
    yield from (tangent_gradient(*weight, lowers[number]) for number, weight in enumerate(weights))


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


def retract_all(weights: Sequence[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `retract` of each pair of factors `L` and `R`.

    On an accelerator, the Gram matrices `L^T L` are computed in float64, and their Cholesky factors in batches. One
    pass of Cholesky QR then leaves the `Q` of a float32 `L` orthonormal up to about `eps cond(L)` (Yamazaki, Tomov and
    Dongarra, SIAM J. Sci. Comput. 37, 2015), so up to rounding for a nearly orthonormal `L`.
    """
    if not weights or batched.is_on_cpu(weights[0][0]):
        yield from (retract(left, right) for left, right in weights)
        return
    grams = [wide.mT @ wide for wide in (left.double() for left, _ in weights)]
    lowers = dict(batched.in_padded_batches(cholesky, grams, diagonal=1.0))
    for number, (left, right) in enumerate(weights):
        upper = lowers[number].mT.to(left.dtype)
        yield torch.linalg.solve_triangular(upper, left, upper=True, left=False), upper @ right


def damped_solve(gram: Tensor, rows: Tensor) -> Tensor:
    """Return `(gram + delta I)^-1 rows` (`K x r`), see `damped_cholesky`; overwrites `gram` (`K x K`)."""
    return cholesky_solve(rows, damped_cholesky(gram))


def damped_cholesky(gram: Tensor) -> Tensor:
    """Return the lower Cholesky factor of `gram + delta I` (`K x K`, positive semi-definite); overwrites `gram`.

    The Tikhonov damping `delta` is sqrt(eps) / 3 of the largest eigenvalue (1e-4 in float32, estimated by power
    iteration), so that directions in which the weight is nearly zero take a shorter step.
    """
    v = gram.diagonal().sqrt()
    for _ in range(3):  # power iteration: `||v||` approaches the largest eigenvalue from below
        v = gram @ (v / torch.linalg.vector_norm(v))
    gram.diagonal().add_(torch.finfo(gram.dtype).eps ** 0.5 / 3 * torch.linalg.vector_norm(v))
    return cholesky(gram)
