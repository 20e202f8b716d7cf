"""torch's FLOP counter, with formulas for operators that it does not know.

    with flop_counter() as counter:
        step(images, labels)
    counter.get_total_flops()

Decompositions count the leading terms given by Golub & Van Loan, Matrix Computations (4th ed.): Householder QR with
explicit thin `Q` (5.2), symmetric QR algorithm with vectors (8.3), R-SVD (8.6), LU (3.2), Cholesky (4.2),
triangular solves (3.1). Elementwise operations and norms do not count.
"""

from math import prod

import torch

from wasi.deferred import triton_absent

with triton_absent():
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

_aten = torch.ops.aten


def flop_counter() -> FlopCounterMode:
    """Return a context that counts the FLOPs of what runs inside, backward passes included, 2 per multiply-add."""
    counter = FlopCounterMode(display=False, custom_mapping={**_FORMULAS, **_CORRECTED})
    same = {lacking: flop_registry[known] for lacking, known in _SAME_AS.items()}
    corrected = {operator: counter.flop_registry[operator] for operator in _CORRECTED}
    counter.flop_registry.update({**same, **flop_registry, **corrected})  # else torch's own formulas take precedence
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]  # implements what the counter uses of it
    return counter


class _NoModules:
    """Replaces the counter's module tracker, which fails on modules that are run again in a backward pass."""

    parents = frozenset({"Global"})

    def __enter__(self) -> "_NoModules":
        return self

    def __exit__(self, *exception) -> None:
        pass


def _qr(m: int, n: int) -> int:
    """Return the FLOPs of a thin QR of `m x n`, with `R` and explicit `Q`."""
    m, n = max(m, n), min(m, n)
    return 4 * m * n**2 - 4 * n**3 // 3


def _svd(m: int, n: int) -> int:
    """Return the FLOPs of a thin SVD of `m x n`."""
    m, n = max(m, n), min(m, n)
    return 6 * m * n**2 + 20 * n**3


def _triangular_solve(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Return the FLOPs of a triangular `n x n` system, from either side: `n` per entry of the right-hand sides."""
    return a[-1] * b[-2] * b[-1]


def _batched(formula):
    """Return a counter formula: `formula` of the operands' shapes, times the batch size of the first operand."""

    def count(*shapes, **_) -> int:
        return prod(shapes[0][:-2]) * formula(*shapes)

    return count


def _convolution_backward(
    grad: tuple[int, ...], x: tuple[int, ...], weight: tuple[int, ...], *options, **_
) -> int:
    """Return the FLOPs of the gradients of a convolution's input and weight; each takes as many as the convolution.

    torch counts the gradient of the weight as without groups, for a depthwise convolution once per channel too often.
    """
    transposed, mask = options[4], options[7]
    return 2 * prod(x if transposed else grad) * prod(weight[1:]) * sum(mask[:2])


_FORMULAS = {
    _aten.mv: lambda a, *_, **__: 2 * prod(a),
    _aten.addmv: lambda _, a, *__, **___: 2 * prod(a),
    _aten.dot: lambda a, *_, **__: 2 * prod(a),
    _aten.linalg_qr: _batched(lambda a, *_: _qr(*a[-2:])),
    _aten._linalg_svd: _batched(lambda a, *_: _svd(*a[-2:])),
    _aten._linalg_eigh: _batched(lambda a, *_: 9 * a[-1] ** 3),
    _aten.linalg_cholesky_ex: _batched(lambda a, *_: a[-1] ** 3 // 3),
    _aten.cholesky_solve: _batched(lambda b, a, *_: 2 * _triangular_solve(a, b)),
    _aten.linalg_solve_triangular: _batched(lambda a, b, *_: _triangular_solve(a, b)),
    _aten._linalg_solve_ex: _batched(lambda a, b, *_: 2 * a[-1] ** 3 // 3 + 2 * prod(b) * a[-1] // prod(a[:-2])),
    _aten.linalg_inv_ex: _batched(lambda a, *_: 2 * a[-1] ** 3),
}
_CORRECTED = {_aten.convolution_backward: _convolution_backward}  # used in place of torch's own
_SAME_AS = {
    _aten.addmm_: _aten.addmm,
    _aten.baddbmm_: _aten.baddbmm,
    _aten._scaled_dot_product_flash_attention_for_cpu: _aten._scaled_dot_product_flash_attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        _aten._scaled_dot_product_flash_attention_backward
    ),
}
