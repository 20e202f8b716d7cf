"""FLOPs of a forward pass without gradients, counted by fvcore.

fvcore counts multiply-adds, so its total is doubled. Matrix products, convolutions and attention count; norms and
elementwise operations, for some of which fvcore has estimates, do not.
"""

import logging
import warnings
from math import prod

import torch
from torch import Tensor, nn

from wasi.models.modes import without_fast_path

log = logging.getLogger(__name__)


@torch.no_grad()
def forward_flops(model: nn.Module, images: Tensor) -> int:
    """Return the FLOPs (2 per multiply-add) of `model(images)`, which is traced once by `torch.jit`.

    The model runs in its current mode, training or evaluation. Tracing does not see the operations inside a custom
    autograd Function: one that is also used without gradients counts as 0, with a warning.
    """
    with warnings.catch_warnings(), without_fast_path():
        warnings.simplefilter("ignore")  # deprecation of torch.jit, from fvcore's import and tracing
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(model, images)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        analysis.clear_op_handles().set_op_handle(**_handles())
        total = analysis.total()
    for kind in analysis.unsupported_ops():
        if kind.startswith("prim::PythonOp"):
            name = kind.removeprefix("prim::PythonOp.")
            log.warning("flops: %s is opaque to a trace, which does not count its forward pass", name)
    return int(2 * total)


_PRODUCTS = ("mm", "bmm", "matmul", "mv", "dot")
_PRODUCTS_ADDED = ("addmm", "addmm_", "baddbmm", "baddbmm_", "addmv")


def _handles() -> dict:
    """Return the formulas by operator: fvcore's lack some operators, broadcasting and in-place forms."""
    from fvcore.nn.jit_handles import conv_flop_jit, linear_flop_jit

    return {
        "aten::linear": linear_flop_jit,
        "aten::_convolution": conv_flop_jit,
        **{f"aten::{name}": lambda inputs, outputs: _product(inputs[0], outputs) for name in _PRODUCTS},
        **{f"aten::{name}": lambda inputs, outputs: _product(inputs[1], outputs) for name in _PRODUCTS_ADDED},
        "aten::einsum": _einsum,
        "aten::scaled_dot_product_attention": _attention,
    }


def _product(left, outputs) -> int:
    """Return the multiply-adds of a matrix product: the size of the result times the inner dimension."""
    return prod(_sizes(outputs[0])) * _sizes(left)[-1]


def _attention(inputs, outputs) -> int:
    """Return the multiply-adds of the two products in `softmax(Q K^T) V`, for operands `[..., L, d]`."""
    query, key, value = map(_sizes, inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _einsum(inputs, outputs) -> int | float:
    """Return the multiply-adds, for two operands exactly; else fvcore's count, in the best order and to four digits."""
    from fvcore.nn.jit_handles import einsum_flop_jit

    equation = inputs[0].toIValue().replace(" ", "")
    operands = [_sizes(x) for x in inputs[1].node().inputs()]
    if len(operands) != 2 or "." in equation:
        return einsum_flop_jit(inputs, outputs)
    terms = equation.split("->")[0].split(",")
    sizes = {c: n for term, shape in zip(terms, operands, strict=True) for c, n in zip(term, shape, strict=True)}
    return prod(sizes.values())


def _sizes(value) -> list[int]:
    return value.type().sizes()
