"""A weight held as `W = L R`: gradients, tangent step, and the way back to an orthonormal `L` (DESIGN 3.3)."""

import torch
from torch import Tensor

from wasi.linalg import tucker
from wasi.linalg.orthonormal import qr_near_orthonormal

# Tikhonov damping of (R R^T)^-1, relative to sigma_1^2: directions far below it take a shorter step.
DAMPING = 1e-4


def product(x: Tensor, left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """`Y = (X R^T) L^T + b`, `[..., I]` to `[..., O]`; not differentiable, see `layers.factored`."""
    through, _ = coordinates(x, right, bias is not None)
    return from_coordinates(through, left, bias, x.shape)


def coordinates(
    x: Tensor, right: Tensor, one: bool, basis: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """`R X^T` (`K x n` for the `n` rows of `x`, with a last row of ones if asked for) and `X U` (`[..., r]`).

    Shaped for BLAS: this way round `K` needs no padding inside the kernel. The few columns of a basis `U`
    (`I x r`) ride along in the product, where a pass over `x` of their own would cost several times as much.
    """
    rows = x.reshape(-1, x.shape[-1])
    k, r = right.shape[0], 0 if basis is None else basis.shape[1]
    found = rows.new_empty(r + k + one, rows.shape[0])
    torch.mm(right if basis is None else torch.cat([basis.mT, right]), rows.mT, out=found[: r + k])
    if one:
        found[-1] = 1
    # A copy, so that what is kept of it does not keep all the rest.
    seen = None if basis is None else found[:r].mT.clone(memory_format=torch.contiguous_format)
    return found[r:], None if seen is None else seen.view(*x.shape[:-1], r)


def from_coordinates(through: Tensor, left: Tensor, bias: Tensor | None, shape: torch.Size) -> Tensor:
    """`Y` from `coordinates` of an `X` of `shape`. The bias is one more column of `L`, not a pass over `Y`."""
    if bias is not None:
        left = with_bias_column(left, bias)
    y = left.new_empty(*shape[:-1], left.shape[0])  # no view, which models that add to it in place could not
    torch.mm(through.mT, left.mT, out=y.view(-1, left.shape[0]))
    return y


def with_bias_column(left: Tensor, bias: Tensor) -> Tensor:
    """`[L b]`, `O x (K + 1)`: a view where the two lie in memory like that (`side_by_side`), else a copy."""
    o, k = left.shape
    follows = bias.data_ptr() == left.data_ptr() + k * left.element_size()
    if follows and left.stride() == (k + 1, 1) and bias.stride() == (k + 1,):
        return left.as_strided((o, k + 1), (k + 1, 1))
    return torch.cat([left, bias[:, None]], 1)


def side_by_side(left: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Copies of `L` (`O x K`) and `b` (`[O]`) that are views of one matrix `[L b]`."""
    both = torch.cat([left, bias[:, None]], 1)
    return both[:, :-1], both[:, -1]


def rank_gradient(grad: Tensor, left: Tensor) -> Tensor:
    """`G L`, `[..., O]` to `[..., K]`: the gradient of `X R^T`; times `R` it is that of `X`. Shaped for BLAS."""
    rows = grad.reshape(-1, grad.shape[-1])
    return (left.mT @ rows.mT).mT.view(*grad.shape[:-1], -1)


def factor_gradients(
    grad: Tensor, core: Tensor, factors: tucker.Factors, left: Tensor, right: Tensor, with_bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`dL` (`O x K`), `dR` (`K x I`) and, `with_bias`, `db`; the input is a Tucker decomposition (DESIGN 3.2).

    Exact for that input, and no `O x I` matrix is formed: with `U` the last factor (`I x r`), either
    `M = G^T C` (`O x r`) comes first, or, where `r` is large, the input is taken through `R` first.
    """
    o, k = left.shape
    basis = factors[-1]
    r = core.shape[-1]
    right_small = right if basis is None else right @ basis
    if basis is not None and r <= 2 * k:
        m, d_bias = tucker.weight_coordinates(grad, core, factors, with_bias)
        return m @ right_small.mT, (left.mT @ m) @ basis.mT, d_bias
    seen, d_bias = tucker.contract_gradient(grad, factors, with_bias)
    seen, rows = seen.reshape(-1, o), core.reshape(-1, r)
    d_right = (seen @ left).mT @ rows
    return seen.mT @ (rows @ right_small.mT), d_right if basis is None else d_right @ basis.mT, d_bias


def tangent_gradient(d_left: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Step direction for `L`: `(I - L L^T) dL (R R^T + delta I)^-1`, and its squared length in weight space.

    With `dR` unchanged, `[direction] R + L [dR]` is the projection of `dW` on the tangent space of the
    matrices of rank `K`. The squared length is `||(I - L L^T) dL (R R^T + delta I)^-1/2||_F^2`.
    """
    normal = d_left - left @ (left.mT @ d_left)
    direction = torch.cholesky_solve(normal.mT, damped_cholesky(right @ right.mT)).mT
    return direction, (normal * direction).sum()


def damped_cholesky(gram: Tensor) -> Tensor:
    """Lower Cholesky factor of `gram + delta I`, `delta` relative to the largest eigenvalue; overwrites `gram`."""
    gram.diagonal().add_(DAMPING * _largest(gram))
    return torch.linalg.cholesky(gram)


def _largest(gram: Tensor) -> Tensor:
    """Largest eigenvalue of a positive definite matrix, closely, by power steps from its diagonal."""
    v = gram.diagonal().sqrt()
    for _ in range(3):
        v = gram @ (v / torch.linalg.vector_norm(v))
    return torch.linalg.vector_norm(v)


def retract(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with `L` orthonormal again: `L = Q T` (positive diagonal), so `W = Q (T R)`.

    After a tangent step of plain SGD `L^T L = I + O(lr^2)`, hence `T = I + O(lr^2)`. Momentum and Adam state is
    left as it is, in a basis that has moved a little: momentum holds older tangents and Adam scales
    elementwise, so their steps leave the tangent space and `T = I + O(lr)`; the product `L R` is exact always.
    """
    q, t = qr_near_orthonormal(left)
    return q, t @ right


def off_orthonormal(left: Tensor) -> Tensor:
    """`||L^T L - I||_F`, a scalar."""
    gram = left.mT @ left
    gram.diagonal().sub_(1)
    return torch.linalg.vector_norm(gram)
