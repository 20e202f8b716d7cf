"""torch's own FLOP counter, with formulas for what it lacks.

>>> with flop_counter() as counter:
...     step(images, labels)
>>> counter.get_total_flops()
"""

from math import prod

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from wasi.measure import formulas

_aten = torch.ops.aten


def flop_counter() -> FlopCounterMode:
    """A context that counts what runs inside, forward, backward and decompositions, 2 per multiply-add."""
    # Newer releases have some of these formulas themselves; theirs are kept.
    lacking = {operator: count for operator, count in _FORMULAS.items() if operator not in flop_registry}
    counter = FlopCounterMode(display=False, custom_mapping=lacking)
    counter.mod_tracker = _NoModules()
    return counter


class _NoModules:
    """Totals only: torch's attribution to modules fails on a module that is run again inside a backward pass."""

    parents = frozenset({"Global"})

    def __enter__(self) -> "_NoModules":
        return self

    def __exit__(self, *exception) -> None:
        pass


def _batched(formula):
    """A count from the matrices' shapes; leading axes of the first multiply."""

    def count(*shapes, **_) -> int:
        return prod(shapes[0][:-2]) * formula(*shapes)

    return count


_FORMULAS = {
    _aten.addmm_: lambda _, a, b, **__: formulas.matmul(*a, b[1]),
    _aten.baddbmm_: lambda _, a, b, **__: a[0] * formulas.matmul(*a[1:], b[2]),
    _aten.mv: _batched(lambda a, x, *_: formulas.matmul(*a[-2:], 1)),
    _aten.linalg_qr: _batched(lambda a, *_: formulas.qr(*a[-2:])),
    _aten._linalg_svd: _batched(lambda a, *_: formulas.svd(*a[-2:])),
    _aten._linalg_eigh: _batched(lambda a, *_: formulas.eigh(a[-1])),
    _aten.linalg_cholesky_ex: _batched(lambda a, *_: formulas.cholesky(a[-1])),
    _aten.cholesky_solve: _batched(lambda b, a, *_: 2 * formulas.triangular_solve(a[-1], b[-1])),
    _aten.linalg_solve_triangular: _batched(
        lambda a, b, *_: formulas.triangular_solve(a[-1], prod(b[-2:]) // a[-1])
    ),
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: formulas.attention(q, k, v),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: formulas.fused_attention_backward(q, k, v)
    ),
}
