"""One forward pass as a list of operators that cost something, each with what it costs, by fvcore's tracing.

The graph that fvcore walks says of every operand whether it needs a gradient, and that decides what the
backward pass costs: a product with k operands that need gradients costs k times its forward.
"""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from unittest.mock import patch

import torch
from torch import Tensor, nn

from wasi.layers.base import LowRankLayer
from wasi.layers.factored import FactoredLinear
from wasi.layers.tucker_linear import TuckerLinear
from wasi.measure import formulas
from wasi.measure.layer_flops import PRODUCTS
from wasi.models import attention

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Operator:
    """Forward and backward FLOPs of one operator.

    scope: name of the module it ran in.
    saves: keeps something for the backward pass; `early`: before it computes, so that a recomputation which
        stops at the last saved tensor need not compute it.
    layer, shape, needs_input: for the product of a low-rank layer, whose work has a closed form of its own:
        the layer, its input's shape, and whether that needs a gradient.
    """

    scope: str
    forward: int = 0
    backward: int = 0
    saves: bool = True
    early: bool = False
    layer: LowRankLayer | None = None
    shape: tuple[int, ...] = ()
    needs_input: bool = False


def trace(model: nn.Module, images: Tensor) -> list[Operator]:
    """Operators of `model(images)` in the order they ran, in the model's present mode and gradient mode."""
    found: list[Operator] = []
    modules = dict(model.named_modules())
    with warnings.catch_warnings(), patch.object(attention, "PackedAttention", _WholeBatchAttention):
        warnings.simplefilter("ignore")  # fvcore's import and its tracing tell that torch.jit is old
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(model, images)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        analysis.clear_op_handles()
        for kind, read in _READERS.items():
            analysis.set_op_handle(kind, _handle(found, read, modules))
        for name in PRODUCTS:
            analysis.set_op_handle(f"prim::PythonOp.{name}", _handle(found, _layer_product, modules))
        analysis.total()
    for kind in analysis.unsupported_ops():
        if kind.startswith("prim::PythonOp"):
            log.warning("flops: no rule for %s, counted as none", kind.removeprefix("prim::PythonOp."))
    return found


class _WholeBatchAttention:
    """`PackedAttention`'s products as operators whose number does not depend on the batch."""

    @staticmethod
    def apply(qkv: Tensor) -> Tensor:
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return ((q * qkv.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v).transpose(1, 2)


def _handle(found: list[Operator], read: Callable, modules: dict[str, nn.Module]) -> Callable:
    def handle(inputs, outputs) -> int:
        scope = outputs[0].node().scopeName().split("/")[-1]
        module = modules.get(scope)
        if read is _layer_product or not _in_closed_form(module, outputs):
            operator = read(scope, module, inputs, outputs)
            if operator is not None:
                found.append(operator)
                return operator.forward // 2
        return 0

    return handle


def _in_closed_form(module: nn.Module | None, outputs) -> bool:
    """Work of a training layer around its product's Function, which `layer_flops` knows as a whole."""
    known = isinstance(module, (FactoredLinear, TuckerLinear))
    return known and torch.is_grad_enabled() and not outputs[0].requiresGrad()


def _sizes(value) -> list[int]:
    return value.type().sizes()


def _needs(*values) -> int:
    return sum(bool(v.isCompleteTensor() and v.requiresGrad()) for v in values)


def _product(flops: int, a, b, scope: str, early: bool = True) -> Operator:
    count = _needs(a, b)
    return Operator(scope, flops, count * flops, saves=count > 0, early=early)


def _linear(scope, module, inputs, outputs) -> Operator:
    x, weight = inputs[:2]
    return _product(2 * prod(_sizes(x)) * _sizes(weight)[0], x, weight, scope)


def _matmul(scope, module, inputs, outputs) -> Operator:
    a, b = inputs[:2]
    return _product(2 * prod(_sizes(outputs[0])) * _sizes(a)[-1], a, b, scope)


def _matmul_added(scope, module, inputs, outputs) -> Operator:
    return _matmul(scope, module, inputs[1:], outputs)


def _einsum(scope, module, inputs, outputs) -> Operator:
    equation = inputs[0].toIValue().replace(" ", "")
    operands = list(inputs[1].node().inputs())
    if len(operands) != 2 or "." in equation:
        raise ValueError(f"flops: no rule for einsum {equation!r}; only two operands without an ellipsis have one")
    terms = equation.split("->")[0].split(",")
    size = {c: n for term, x in zip(terms, operands, strict=True) for c, n in zip(term, _sizes(x), strict=True)}
    return _product(2 * prod(size.values()), *operands, scope)


def _convolution(scope, module, inputs, outputs) -> Operator:
    x, weight, transposed = inputs[0], inputs[1], inputs[6].toIValue()
    flops = formulas.convolution(_sizes(x), _sizes(weight), _sizes(outputs[0]), transposed)
    return _product(flops, x, weight, scope)


def _attention(scope, module, inputs, outputs) -> Operator:
    query, key, value, mask, dropout = inputs[:5]
    shapes = [_sizes(v) for v in (query, key, value)]
    forward = formulas.attention(*shapes)
    count = _needs(query, key, value)
    if _needs(mask) or dropout.toIValue() > 0:  # torch writes it out: two products, each with its gradients
        scores = formulas.attention(shapes[0], shapes[1], [*shapes[2][:-1], 0])
        backward = _needs(query, key) * scores
        backward += (min(_needs(query, key, mask), 1) + _needs(value)) * (forward - scores)
        return Operator(scope, forward, backward, saves=count + _needs(mask) > 0)
    return Operator(scope, forward, formulas.fused_attention_backward(*shapes) if count else 0, saves=count > 0)


def _saver(scope, module, inputs, outputs) -> Operator | None:
    return Operator(scope) if outputs[0].requiresGrad() else None


def _scaling(scope, module, inputs, outputs) -> Operator | None:
    """A product saves the other factor, unless that is a mere number."""
    a, b = inputs[:2]
    kept = (_needs(a) and _is_array(b)) or (_needs(b) and _is_array(a))
    return Operator(scope) if kept else None


def _is_array(value) -> bool:
    return value.isCompleteTensor() and len(_sizes(value)) > 0


def _dropout(scope, module, inputs, outputs) -> Operator | None:
    active = inputs[1].toIValue() > 0 and inputs[2].toIValue()
    return _saver(scope, module, inputs, outputs) if active else None


def _layer_product(scope, module, inputs, outputs) -> Operator:
    x = inputs[0]
    return Operator(scope, layer=module, shape=tuple(_sizes(x)), needs_input=_needs(x) > 0)


_READERS = {
    "aten::linear": _linear,
    "aten::matmul": _matmul,
    "aten::mm": _matmul,
    "aten::bmm": _matmul,
    "aten::mv": _matmul,
    "aten::addmm": _matmul_added,
    "aten::baddbmm": _matmul_added,
    "aten::einsum": _einsum,
    "aten::_convolution": _convolution,
    "aten::scaled_dot_product_attention": _attention,
    "aten::dropout": _dropout,
    "aten::mul": _scaling,
    **{
        f"aten::{name}": _saver
        for name in ("gelu", "relu", "silu", "tanh", "sigmoid", "softmax", "layer_norm", "batch_norm")
    },
}
