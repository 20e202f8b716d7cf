"""Tucker decompositions of activations, and the products with them that the backward pass needs.

An activation `X` has shape `[B, *tokens, I]`. Each of its modes has a factor `U_m` (`d_m x r_m`) with orthonormal
columns, or `None` if the mode is kept whole (`r_m = d_m`, the identity). `x_m` is the mode product; the unfolding `A_m`
(`prod(other modes) x d_m`) has mode `m` last. Equations count modes from 1 (batch) as `docs/method.md` does, arguments
`mode` from 0: `U_2`, of the first token mode, is the factor of `mode=1`.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from wasi.linalg.thin import thin_matmul

Factors = Sequence[Tensor | None]


def project(x: Tensor, factor: Tensor, mode: int) -> Tensor:
    """Return the mode product `X x_m U^T` for `factor` `U`: `[..., d_m, ...]` becomes `[..., r_m, ...]`.

    A contiguous `x` is not copied.
    """
    shape = list(x.shape)
    shape[mode] = factor.shape[1]
    if mode == x.dim() - 1:
        return thin_matmul(x, factor.mT).contiguous().view(shape)
    left, right = prod(x.shape[:mode]), prod(x.shape[mode + 1 :])
    # Not torch.matmul: where the factor requires a gradient, it would copy `x` transposed to fold the batch into it.
    return torch.bmm(factor.mT.expand(left, -1, -1), x.reshape(left, x.shape[mode], right)).view(shape)


def iterate(x: Tensor, small: Tensor, mode: int) -> Tensor:
    """Return the subspace iterate `A_m^T (A_m U)` (`d_m x r_m`) of the unfolding of `x`, given `small = X x_m U^T`."""
    if mode == x.dim() - 1:
        # Computed transposed: BLAS is faster if both matrices have their long side last.
        return (small.reshape(-1, small.shape[-1]).mT @ x.reshape(-1, x.shape[-1])).mT
    left, right = prod(x.shape[:mode]), prod(x.shape[mode + 1 :])
    rows, projected = x.reshape(left, x.shape[mode], right), small.reshape(left, small.shape[mode], right)
    return (rows @ projected.mT).sum(0)


def compress(
    x: Tensor, bases: Factors, batch_rank: int | None, wanted: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
    """Decompose `X` in given bases, `core = X x_2 U_2^T x_3 U_3^T`, and compute the subspace iterates that are wanted.

    Modes are projected one after another, token modes before features or after them, whichever takes fewer operations.
    The iterate of a basis is `A_m^T A_m U_m`, with `A_m` the unfolding of `X` as projected on the bases before. If
    `batch_rank < B`, the batch mode is truncated last, `core <- core x_1 U_1^T`, with `U_1` by `batch_factor`.

    Args:
        x: `X`, `[B, *tokens, I]`.
        bases: `U_m` (`d_m x r_m`) for each token mode and, last, the feature mode; None keeps a mode whole.
        batch_rank: rank of the batch mode; None keeps it whole.
        wanted: for each basis, whether its iterate is computed.

    Returns:
        The core (`[r_1, r_2, ..., r]`); one factor or None per mode, the batch mode first; and for each basis its
        iterate (`d_m x r_m`, not orthonormalised), or None if not wanted.
    """
    core = x
    products: list[Tensor | None] = [None] * len(bases)
    for position in _cheaper_order(x.shape, bases):
        if (basis := bases[position]) is None:
            continue
        small = project(core, basis, position + 1)
        if wanted[position]:
            products[position] = iterate(core, small, position + 1)
        core = small
    factor = None
    if batch_rank is not None and batch_rank < len(x):
        factor = batch_factor(core.flatten(1), batch_rank)
        core = project(core, factor, 0)
    return core, [factor, *bases], products


def _cheaper_order(shape: Sequence[int], bases: Factors) -> tuple[int, ...]:
    """Return the indices of `bases` in the order of projection: features first, or last if that is cheaper."""
    if not bases:  # a single sample, `[I]`, whose only mode counts as the batch's
        return ()
    last = len(bases) - 1
    ranks = [shape[0], *(d if u is None else u.shape[1] for d, u in zip(shape[1:], bases, strict=True))]
    features_first, features_last = (last, *range(last)), tuple(range(last + 1))
    costs = [_projection_cost(shape, ranks, [i + 1 for i in order]) for order in (features_first, features_last)]
    return features_first if costs[0] <= costs[1] else features_last  # torch 2.6 cannot compile min(..., key=...)


def expand(core: Tensor, factors: Factors) -> Tensor:
    """Return the tensor `core x_1 U_1 x_2 U_2 ...` (`[d_1, d_2, ...]`) that a core (`[r_1, r_2, ...]`) stands for.

    Modes are expanded in the reverse order of `contract_gradient`, so both cost the same; features come last.
    """
    last = len(factors) - 1
    for mode in (*reversed(token_modes_first(last)), last):
        if (factor := factors[mode]) is not None:
            core = project(core, factor.mT, mode)
    return core


def batch_factor(rows: Tensor, rank: int) -> Tensor:
    """Return the leading left singular vectors (`B x min(rank, q)`, in any order) of `rows` (`B x q`).

    `rows` is a tensor that has been projected in all other modes, one row per sample. Samples change from batch to
    batch, so there is no warm start; an eigendecomposition of the smaller Gram matrix costs less than enough iterations
    from a random start.

    Args:
        rank: below `B`.
    """
    dtype = rows.dtype
    rows = rows.to(torch.promote_types(dtype, torch.float32))  # decompositions support no narrower type
    b, q = rows.shape
    if b <= q:
        return torch.linalg.eigh(rows @ rows.mT)[1][:, -rank:].contiguous().to(dtype)
    vectors = torch.linalg.eigh(rows.mT @ rows)[1][:, -min(rank, q) :]
    return torch.linalg.qr(rows @ vectors)[0].to(dtype)


def row_sum(grad: Tensor) -> Tensor:
    """Return `grad` (`[..., O]`) summed over all but the last axis (`[O]`), the gradient of a bias.

    On a CPU it is computed as a product with ones, which is twice as fast as a reduction.
    """
    rows = grad.reshape(-1, grad.shape[-1])
    if grad.device.type != "cpu":
        return rows.sum(0)
    return (rows.new_ones(1, rows.shape[0]) @ rows)[0]


def contract_gradient(grad: Tensor, factors: Factors) -> Tensor:
    """Return the output gradient `G` (`[B, *tokens, O]`) in all factors but the last: `G x_1 U_1^T x_2 U_2^T`.

    Its shape is `[r_1, r_2, O]`; factors that are None leave their mode whole.
    """
    for mode in token_modes_first(len(factors) - 1):
        if (factor := factors[mode]) is not None:
            grad = project(grad, factor, mode)
    return grad


def token_modes_first(modes: int) -> tuple[int, ...]:
    """Return the order in which `contract_gradient` projects the batch and token modes, of which there are `modes`."""
    return (*range(1, modes), 0)


def weight_coordinates(grad: Tensor, core: Tensor, factors: Factors) -> Tensor:
    """Return `M` (`O x r`), the weight gradient in coordinates of the feature basis: `dW = G^T X~ = M U^T`.

    `X~` (`n x I`) is the input that core and factors stand for; without a feature basis, `U = I` and `M = dW`. `M` is
    `(G x_1 U_1^T x_2 U_2^T)^T core` or `G^T (core x_1 U_1 x_2 U_2)`, all flattened to rows, whichever takes fewer
    operations; they differ only by rounding.

    Args:
        grad: `G`, `[B, *tokens, O]`; core: `[r_1, r_2, r]`; factors: one per mode, the batch mode first, or None.
    """
    sizes, ranks = grad.shape[:-1], core.shape[:-1]
    o, r = grad.shape[-1], core.shape[-1]
    order = token_modes_first(len(sizes))
    through_core = _projection_cost((*sizes, o), (*ranks, o), order) + prod(ranks) * o * r
    through_tokens = _projection_cost((*sizes, r), (*ranks, r), order) + prod(sizes) * o * r
    if through_core <= through_tokens:
        grad = contract_gradient(grad, factors)
    else:
        core = expand(core, [*factors[:-1], None])
    return grad.reshape(-1, o).mT @ core.reshape(-1, r)


def weight_gradient(grad: Tensor, core: Tensor, factors: Factors) -> Tensor:
    """Return the weight gradient `dW = M U^T` (`O x I`) for the input that core and factors stand for.

    `M` and the arguments are those of `weight_coordinates`, and `U = I` if features are kept whole.
    """
    coordinates = weight_coordinates(grad, core, factors)
    return coordinates if factors[-1] is None else coordinates @ factors[-1].mT


def _projection_cost(sizes: Sequence[int], ranks: Sequence[int], order: Sequence[int]) -> int:
    """Return the multiply-adds of projecting a tensor from `sizes` to `ranks`, mode by mode in `order`, or back."""
    cost, current = 0, list(sizes)
    for mode in order:
        if ranks[mode] != sizes[mode]:
            cost += prod(current) * ranks[mode]
            current[mode] = ranks[mode]
    return cost


def stored_elements(shape: Sequence[int], ranks: Sequence[int]) -> int:
    """Return the number of elements of core and factors for a tensor of `shape`; a mode kept whole has no factor."""
    kept = [min(r, d) for r, d in zip(ranks, shape, strict=True)]
    return prod(kept) + sum(d * r for d, r in zip(shape, kept, strict=True) if r < d)
