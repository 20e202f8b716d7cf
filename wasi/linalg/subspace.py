"""Steps on a weight held as `W = L R`: Algorithm 1 of the paper, and the same step without any dense matrix.

`L` is `O x K` with orthonormal columns, `R` is `K x I`. `docs/method.md` derives `fold_`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wasi.linalg.orthonormal import cholesky, qr_near_orthonormal, qr_positive

# `||E||_F` up to which `fold_` removes the stretch `E` of `L`; see there.
_SMALL_STRETCH = 1e-2


def algorithm_1(left: Tensor, right: Tensor, d_weight: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """Algorithm 1 of arXiv 2510.09160 on dense matrices, made consistent: one subspace iteration on `W+`.

    It is the reference from which `fold_` and `tangent_gradient` differ by `O(lr^2)`; training never calls it.
    The published algorithm lacks the last line and pairs the new `L` with the old `R`.

    Args:
        left: `L`, `O x K`, orthonormal columns; right: `R`, `K x I`; d_weight: `dLoss/dW`, `O x I`.

    Returns:
        The next `L` and `R`.
    """
    w_next = left @ right - lr * d_weight  # W+ = L R - lr dW      O x I
    r_hat = left.mT @ w_next  #              R^ = L^T W+           K x I
    l_next, _ = qr_positive(w_next @ r_hat.mT)  # L+ = orth(W+ R^^T)  O x K
    return l_next, l_next.mT @ w_next  #     R+ = L+^T W+          K x I


def fold_(
    left: Tensor, right: Tensor, update: Tensor, basis: Tensor, decay: float = 1.0, b: Tensor | None = None
) -> Tensor:
    """Take into `L` and `R`, in place, a step `W + C U^T` whose rows lie in the span of a feature basis `U`.

    With `A = L^T C` and `B = (R R^T + delta I)^-1 R U`, `delta` being the damping of `damped_solve`, the step
    `L + (C - L A) B^T`, `R + A U^T` adds to `L R` the projection of `C U^T` on the tangent space of the matrices of
    rank `K`, as one iteration of Algorithm 1 does to first order. It would stretch `L^T L = I` by `E = B N^T N B^T`
    with `N = C - L A`; with `A + B N^T N / 2` in place of `A` the stretch is `E^2 / 4`. Where `||E||_F` is above 1e-2
    that term is left out.

    Args:
        left: `L`, `O x K`; right: `R`, `K x I`; update: `C`, `O x r`, the step in coordinates of the basis;
        basis: `U`, `I x r`, orthonormal columns; decay: factor that weight decay leaves of `W`,
        before the step; b: `B` of an earlier `R`, not many steps away, in place of the present one's: what the step
        adds then differs from that projection by terms quadratic in the length of steps.

    Returns:
        `B`.
    """
    if b is None:
        b = damped_solve(right @ right.mT, right @ basis)
    _add_(left, right, update, basis, decay, _corrected(left.mT @ update, update.mT @ update, b), b)
    return b


def fold_all_(
    weights: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], decays: Sequence[float], bs: Sequence[Tensor | None]
) -> list[Tensor]:
    """`fold_` of several weights, given as its first four arguments, with their small matrices in one batch.

    For an accelerator, where starting an operation takes longer than a decomposition of so small a matrix.
    """
    found = dict(enumerate(bs))
    missing = [number for number, b in found.items() if b is None]
    if missing:
        rights, bases = ([weights[number][place] for number in missing] for place in (1, 3))
        grams = _stacked([right @ right.mT for right in rights])
        rows = _stacked([right @ basis for right, basis in zip(rights, bases, strict=True)])
        solved = torch.vmap(damped_solve)(grams, rows)
        for number, right, basis, b in zip(missing, rights, bases, solved, strict=True):
            found[number] = b[: len(right), : basis.shape[1]]  # less than in the batch for the smaller ones
    used = [b for b in found.values() if b is not None]
    products = [(left.mT @ update, update.mT @ update) for left, _, update, _ in weights]
    stacks = [_stacked(matrices) for matrices in (*zip(*products, strict=True), used)]
    a_s = torch.vmap(_corrected)(*stacks)
    for (left, right, update, basis), decay, a, b in zip(weights, decays, a_s, used, strict=True):
        _add_(left, right, update, basis, decay, a[: b.shape[0], : b.shape[1]], b)
    return used


def _corrected(a: Tensor, square: Tensor, b: Tensor) -> Tensor:
    """`A` of `fold_` (`K x r`), corrected where the stretch is small, from `L^T C` (`K x r`), `C^T C` and `B`."""
    normal = square - a.mT @ a  #     N^T N = C^T C - A^T A, as L is orthonormal
    stretch = normal @ (b.mT @ b)
    is_small = (stretch * stretch.mT).sum() <= _SMALL_STRETCH**2  # ||E||_F^2 = tr (N^T N B^T B)^2
    return a + 0.5 * is_small * (b @ normal)


def _add_(left: Tensor, right: Tensor, update: Tensor, basis: Tensor, decay: float, a: Tensor, b: Tensor) -> None:
    left.addmm_(torch.addmm(update, left, a, alpha=-1), b.mT)  # L <- L + (C - L A) B^T
    right.addmm_(a, basis.mT, beta=decay)  #                     R <- decay R + A U^T


def _stacked(matrices: Sequence[Tensor]) -> Tensor:
    """Matrices as one tensor `[number, most rows, most columns]`, with zeros where one is smaller."""
    if len({matrix.shape for matrix in matrices}) == 1:
        return torch.stack(list(matrices))
    rows, columns = (max(matrix.shape[axis] for matrix in matrices) for axis in (0, 1))
    together = matrices[0].new_zeros(len(matrices), rows, columns)
    for place, matrix in zip(together, matrices, strict=True):
        place[: matrix.shape[0], : matrix.shape[1]] = matrix
    return together


def tangent_gradient(d_left: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The direction `(I - L L^T) dL (R R^T + delta I)^-1` for a linear step on `L`, with `dR` unchanged for `R`.

    `direction R + L dR` is then the projection of `dW` on the tangent space of the matrices of rank `K`.

    Returns:
        The direction (`O x K`) and its squared length in weight space, a scalar.
    """
    normal = d_left - left @ (left.mT @ d_left)
    direction = damped_solve(right @ right.mT, normal.mT).mT
    return direction, (normal * direction).sum()


def retract(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with `L` orthonormal again: `L = Q T` with a positive diagonal, so `W = Q (T R)`."""
    q, t = qr_near_orthonormal(left)
    return q, t @ right


def damped_solve(gram: Tensor, rows: Tensor) -> Tensor:
    """`(gram + delta I)^-1 rows` by Cholesky; overwrites the `K x K` matrix `gram`.

    The Tikhonov damping `delta` is 1e-4 of the largest eigenvalue in float32 (sqrt(eps) / 3 in general), so that
    directions in which the weight is nearly zero take a shorter step.
    """
    v = gram.diagonal().sqrt()
    for _ in range(3):  # power steps: the largest eigenvalue of a positive definite matrix, closely
        v = gram @ (v / torch.linalg.vector_norm(v))
    gram.diagonal().add_(torch.finfo(gram.dtype).eps ** 0.5 / 3 * torch.linalg.vector_norm(v))
    return torch.cholesky_solve(rows, cholesky(gram))


def polar_factors(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`M (M^T M)^(-1/2)` of each tall `M` (`O x r`): the nearest matrix with orthonormal columns.

    By eigendecompositions of the `r x r` Gram matrices in float64. Directions in which `M` is below 1e-6 of its
    largest singular value are noise and are damped instead of being raised to length 1.

    Raises:
        torch.linalg.LinAlgError: a matrix has an entry that is not finite.
    """
    wide = [matrix.double() for matrix in matrices]
    roots = _on_cpu(_inverse_root, [matrix.mT @ matrix for matrix in wide])
    return [matrix @ root.to(matrix.dtype) for matrix, root in zip(matrices, roots, strict=True)]


def _inverse_root(gram: Tensor) -> Tensor:
    """`(M^T M + 1e-12 s^2 I)^(-1/2)` for the Gram matrix `M^T M` (`r x r`), `s` being the largest singular value."""
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    scale = (values + 1e-12 * values[-1]).clamp_min(torch.finfo(torch.float32).tiny).rsqrt()
    return (vectors * scale) @ vectors.mT


def _on_cpu(function: Callable[[Tensor], Tensor], squares: Sequence[Tensor]) -> list[Tensor]:
    """`function` of each square matrix. From an accelerator they come and go together, in two transfers.

    A decomposition of so small a matrix takes an accelerator longer than a CPU, and each makes the host wait.
    """
    if not squares or squares[0].device.type == "cpu":
        return [function(square) for square in squares]
    sizes = [len(square) for square in squares]
    together = torch.cat([square.flatten() for square in squares]).cpu().split([n * n for n in sizes])
    found = [function(part.view(n, n)).flatten() for part, n in zip(together, sizes, strict=True)]
    back = torch.cat(found).to(squares[0].device).split([n * n for n in sizes])
    return [part.view(n, n) for part, n in zip(back, sizes, strict=True)]
