"""Tucker decomposition of activations and what the backward pass needs of it.

An activation has shape `[B, *tokens, I]`. A factor is a matrix `[d_m, r_m]` with orthonormal columns for
each of its modes, or `None` for a mode that is kept whole (`r_m = d_m`, the identity).
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from wasi.linalg.thin import thin_matmul

Factors = Sequence[Tensor | None]


def project(x: Tensor, factor: Tensor, mode: int) -> Tensor:
    """Mode product `x x_m factor^T`: `[..., d_m, ...]` becomes `[..., r_m, ...]`. Nothing wide is copied."""
    shape = list(x.shape)
    shape[mode] = factor.shape[1]
    if mode == x.dim() - 1:
        return thin_matmul(x, factor.mT).contiguous().view(shape)
    left, right = prod(x.shape[:mode]), prod(x.shape[mode + 1 :])
    # torch.matmul would copy `x` transposed, so as to fold it, where the factor requires a gradient.
    return torch.bmm(factor.mT.expand(left, -1, -1), x.reshape(left, x.shape[mode], right)).view(shape)


def iterate(x: Tensor, small: Tensor, mode: int) -> Tensor:
    """`A_m^T (A_m U)` (`d_m x r_m`) of the mode's unfolding, from `x` and its projection `small = x x_m U^T`."""
    if mode == x.dim() - 1:
        # The transposed product: BLAS is faster with the long side of both factors last.
        return (small.reshape(-1, small.shape[-1]).mT @ x.reshape(-1, x.shape[-1])).mT
    left, right = prod(x.shape[:mode]), prod(x.shape[mode + 1 :])
    rows, projected = x.reshape(left, x.shape[mode], right), small.reshape(left, small.shape[mode], right)
    return (rows @ projected.mT).sum(0)


def compress(
    x: Tensor, bases: Factors, batch_rank: int | None, wanted: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
    """A Tucker decomposition of `x` (`[B, *tokens, I]`) in given bases, and one subspace iteration of these.

    Sequentially truncated, each mode on what the one before left, token modes before features or after them, whichever
    takes fewer operations. Where `batch_rank < B`, the batch mode is cut last, to its leading singular vectors.

    Args:
        batch_rank: None keeps the batch mode whole.
        bases: per token mode and for the feature mode `U_m` (`d_m x r_m`), or None to keep the mode whole.
        wanted: per basis, whether its iterate `A_m^T A_m U_m` is computed.

    Returns:
        The core, one factor per mode with the batch mode first, and the iterates, not orthonormalised (None where
        not wanted).
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
    """Places in `bases`: all token modes, then features, or features first; on equal terms the latter."""
    last = len(bases) - 1
    ranks = [shape[0], *(d if u is None else u.shape[1] for d, u in zip(shape[1:], bases, strict=True))]
    orders = (last, *range(last)), tuple(range(last + 1))
    return min(orders, key=lambda order: _projection_cost(shape, ranks, [place + 1 for place in order]))


def expand(core: Tensor, factors: Factors) -> Tensor:
    """The tensor a core and its factors stand for: `core x_1 U_1 ... x_m U_m`, shape `[d_1, ..., d_m]`.

    In the order of `contract_gradient` backwards, which costs the same; features last.
    """
    last = len(factors) - 1
    for mode in (*reversed(token_modes_first(last)), last):
        if (factor := factors[mode]) is not None:
            core = project(core, factor.mT, mode)
    return core


def batch_factor(rows: Tensor, rank: int) -> Tensor:
    """Leading left singular vectors (`B x r`, in any order) of the batch unfolding of a shrunk tensor, exact.

    Samples change from batch to batch, so there is nothing to warm-start: an eigendecomposition of the
    smaller Gram matrix of the shrunk tensor costs less than a useful number of iterations.

    Args:
        rows: `B x q`; rank: below `B`; there are no more vectors than `q`.
    """
    dtype = rows.dtype
    rows = rows.to(torch.promote_types(dtype, torch.float32))  # no decomposition knows a narrower type
    b, q = rows.shape
    if b <= q:
        return torch.linalg.eigh(rows @ rows.mT)[1][:, -rank:].contiguous().to(dtype)
    vectors = torch.linalg.eigh(rows.mT @ rows)[1][:, -min(rank, q) :]
    return torch.linalg.qr(rows @ vectors)[0].to(dtype)


def row_sum(grad: Tensor) -> Tensor:
    """`[..., O]` summed over all but the last axis; on a CPU as a product, twice as fast as a reduction there."""
    rows = grad.reshape(-1, grad.shape[-1])
    if grad.device.type != "cpu":
        return rows.sum(0)
    return (rows.new_ones(1, rows.shape[0]) @ rows)[0]


def contract_gradient(grad: Tensor, factors: Factors) -> Tensor:
    """Output gradient `G` (`[B, *tokens, O]`) projected on all factors but the last: `[r_1, ..., O]`."""
    for mode in token_modes_first(len(factors) - 1):
        if (factor := factors[mode]) is not None:
            grad = project(grad, factor, mode)
    return grad


def token_modes_first(modes: int) -> tuple[int, ...]:
    """Order in which `contract_gradient` takes the batch and token modes of an input with so many."""
    return (*range(1, modes), 0)


def weight_coordinates(grad: Tensor, core: Tensor, factors: Factors) -> Tensor:
    """`M` (`O x r_I`) with `dW = G^T X = M U_I^T`, contracted in the cheaper of two orders.

    Either the output gradient goes through the factors down to the core, or the core is expanded to the
    coordinates of every token; the two differ only in rounding.
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


def _projection_cost(sizes: Sequence[int], ranks: Sequence[int], order: Sequence[int]) -> int:
    """Multiply-adds of shrinking a tensor from `sizes` to `ranks`, mode after mode in `order`, or of the way back."""
    cost, current = 0, list(sizes)
    for mode in order:
        if ranks[mode] != sizes[mode]:
            cost += prod(current) * ranks[mode]
            current[mode] = ranks[mode]
    return cost


def stored_elements(shape: Sequence[int], ranks: Sequence[int]) -> int:
    """Elements of core and factors of a tensor of `shape`; a mode that is kept whole has no factor."""
    kept = [min(r, d) for r, d in zip(ranks, shape, strict=True)]
    return prod(kept) + sum(d * r for d, r in zip(shape, kept, strict=True) if r < d)
