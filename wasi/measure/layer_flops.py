"""Closed forms for the work of low-rank layers: their product, its gradients, and keeping the subspaces.

Where a layer takes the cheaper of two orders, so does the form here. Biases count, as
they are part of products here, unlike those of `nn.Linear`. Of the decompositions the usual way is
counted: Cholesky for bases that are nearly orthonormal, not the Householder QR it falls back to.
"""

from collections.abc import Sequence
from functools import singledispatch
from math import prod

from torch import nn

from wasi.layers.activation import TuckerState
from wasi.layers.base import LowRankLayer
from wasi.layers.factored import FactoredLinear, FactoredProduct
from wasi.layers.svd_linear import SvdLinear
from wasi.layers.tucker_linear import TuckerLinear, TuckerProduct
from wasi.linalg.tucker import token_modes_first, truncation_order
from wasi.measure.formulas import cholesky, eigh, matmul, qr, svd, triangular_solve
from wasi.training.subspace import moves_in_subspace

# Functions that stand for a whole product with the weight in a traced graph.
PRODUCTS = (FactoredProduct.__name__, TuckerProduct.__name__)

Shape = Sequence[int]


def core_shape(layer: LowRankLayer, shape: Shape) -> list[int]:
    """Shape of what is kept of an input of `shape`: the Tucker core, or the input itself."""
    if not layer.states:
        return list(shape)
    core = [min(r, d) for r, d in zip(layer.states[0].ranks, shape, strict=True)]
    if core[0] < shape[0]:
        core[0] = min(core[0], prod(core[1:]))
    return core


@singledispatch
def forward(layer: LowRankLayer, shape: Shape) -> int:
    """The product itself."""
    raise TypeError(f"no FLOP rule for {type(layer).__name__}")


@forward.register
def _(layer: FactoredLinear, shape: Shape) -> int:
    rows = prod(shape[:-1])
    return _through_rank(layer, rows) + (matmul(rows, 1, layer.out_features) if layer.bias is not None else 0)


def _through_rank(layer: FactoredLinear, rows: int) -> int:
    k = layer.weight_rank
    return matmul(rows, layer.in_features, k) + matmul(rows, k, layer.out_features)


def _bias_gradient(layer: LowRankLayer, rows: int) -> int:
    trains = layer.bias is not None and layer.bias.requires_grad
    return matmul(1, rows, layer.out_features) if trains else 0


@forward.register
def _(layer: TuckerLinear, shape: Shape) -> int:
    return matmul(prod(shape[:-1]), layer.in_features, layer.out_features)


@singledispatch
def backward(layer: LowRankLayer, shape: Shape, needs_input: bool) -> int:
    """Gradients of the weight (or its factors) and, if needed, of the input."""
    raise TypeError(f"no FLOP rule for {type(layer).__name__}")


@backward.register
def _(layer: FactoredLinear, shape: Shape, needs_input: bool) -> int:
    o, i, k = layer.out_features, layer.in_features, layer.weight_rank
    core = core_shape(layer, shape)
    r, thin = core[-1], core[-1] < i
    rows = prod(shape[:-1])
    total = _bias_gradient(layer, rows) + (_through_rank(layer, rows) if needs_input else 0)
    if layer.collects:
        total += 0 if needs_input else matmul(rows, o, k)  # G L, otherwise on the way to dX
        return total + _coordinates(shape, core, o) + _coordinates(shape, core, k)
    if thin:
        total += matmul(k, i, r)  # R U
    if thin and r <= 2 * k:  # M first
        products = _coordinates(shape, core, o), matmul(o, r, k), matmul(k, o, r), matmul(k, r, i)
        return total + sum(products)
    n = prod(core[:-1])
    total += _shrink(shape[:-1], core[:-1], o)
    total += matmul(n, o, k) + matmul(k, n, r) + matmul(n, r, k) + matmul(o, n, k)
    return total + (matmul(k, r, i) if thin else 0)


@backward.register
def _(layer: TuckerLinear, shape: Shape, needs_input: bool) -> int:
    o, i = layer.out_features, layer.in_features
    core = core_shape(layer, shape)
    total = _bias_gradient(layer, prod(shape[:-1])) + (forward(layer, shape) if needs_input else 0)
    return total + _coordinates(shape, core, o) + (matmul(o, core[-1], i) if core[-1] < i else 0)


def compression(layer: LowRankLayer, shape: Shape, gather: bool) -> int:
    """Core and factors of one input; `gather`: and, in their share of steps, the products that move the bases."""
    if not layer.states:
        return 0
    total, gathered, current = 0, 0, list(shape)
    core = core_shape(layer, shape)
    for mode in truncation_order(tuple(shape[1:]), layer.states[0].token_ranks):
        total += 2 * prod(current) * core[mode + 1]
        gathered += 2 * prod(current) * core[mode + 1]
        current[mode + 1] = core[mode + 1]
    if layer.states[0].batch_rank < shape[0]:
        b, q = shape[0], prod(current[1:])
        if b <= q:
            total += matmul(b, q, b) + eigh(b)
        else:
            total += matmul(q, b, q) + eigh(q) + matmul(b, q, core[0]) + qr(b, core[0])
        total += 2 * prod(current) * core[0]
    return total + (gathered // layer.states[0].update_gap if gather else 0)


def step(layer: LowRankLayer, token_shape: Shape) -> int:
    """What a layer does once per optimizer step: bases move on, and so do the factors.

    Args:
        token_shape: shape of the layer's inputs without their batch axis.
    """
    total = sum(_advance(state, token_shape) for state in layer.states)
    if isinstance(layer, FactoredLinear) and moves_in_subspace(layer):
        total += _thin_step(layer) if layer.collects else _tangent(layer) + _retraction(layer)
    return total


def truncations(model: nn.Module) -> int:
    """SVDs that take dense weights back to their rank after every step, and the products; a shared one once."""
    layers = {id(m.weight): m for m in model.modules() if isinstance(m, SvdLinear) and m.retracted is not None}
    return sum(_truncation(m.out_features, m.in_features, m.rank) for m in layers.values())


def _truncation(o: int, i: int, k: int) -> int:
    return svd(o, i) + matmul(o, k, i)


def _coordinates(shape: Shape, core: Shape, o: int) -> int:
    """`M` (`o x r`) of a gradient `o` wide: it goes down to the core, or the core comes up to the tokens."""
    sizes, ranks, r = shape[:-1], core[:-1], core[-1]
    down = _shrink(sizes, ranks, o) + matmul(o, prod(ranks), r)
    up = _shrink(sizes, ranks, r) + matmul(o, prod(sizes), r)
    return min(down, up)


def _shrink(sizes: Shape, ranks: Shape, width: int) -> int:
    """`sizes x width` to `ranks x width` or back, one mode after another."""
    total, current = 0, list(sizes)
    for mode in token_modes_first(len(sizes)):
        rank = ranks[mode]
        if rank != sizes[mode]:
            total += 2 * prod(current) * rank * width
            current[mode] = rank
    return total


def _advance(state: TuckerState, token_shape: Shape) -> int:
    ranks = zip(token_shape, state.token_ranks, strict=True)
    return sum(_near_orthonormal(d, r) for d, r in ranks if r < d) // state.update_gap


def _near_orthonormal(m: int, n: int) -> int:
    return matmul(n, m, n) + cholesky(n) + triangular_solve(n, m)


def _damped_cholesky(k: int) -> int:
    return 3 * matmul(k, k, 1) + cholesky(k)


def _tangent(layer: FactoredLinear) -> int:
    o, i, k = layer.out_features, layer.in_features, layer.weight_rank
    return matmul(k, o, k) + matmul(o, k, k) + matmul(k, i, k) + _damped_cholesky(k) + 2 * triangular_solve(k, o)


def _retraction(layer: FactoredLinear) -> int:
    return _near_orthonormal(layer.out_features, layer.weight_rank) + matmul(
        layer.weight_rank, layer.weight_rank, layer.in_features
    )


def _thin_step(layer: FactoredLinear) -> int:
    """`thin_tangent`, `thin_step_`, and `lift` when the basis moves; retractions, due rarely, are left out."""
    o, i, k = layer.out_features, layer.in_features, layer.weight_rank
    r = layer.states[0].feature_basis.shape[1]
    lift = matmul(k, i, r) + matmul(k, i, k) + _damped_cholesky(k) + 2 * triangular_solve(k, r) + matmul(r, k, r)
    tangent = lift // layer.states[0].update_gap + matmul(r, o, r) + matmul(r, k, r)
    small = 2 * matmul(r, k, r) + matmul(r, r, r) + matmul(k, r, r)
    return tangent + 2 * matmul(o, k, r) + matmul(k, r, i) + small
