"""Closed forms for the work of single operators, in FLOPs: 2 per multiply-add. Arguments are shapes and sizes.

Products and attention are counted as dense. Decompositions take the leading terms of Golub & Van Loan, Matrix
Computations (4th ed.): Householder QR with explicit thin `Q` (5.2), symmetric QR algorithm with vectors (8.3),
R-SVD (8.6), Cholesky (4.2), triangular solves (3.1). Everything elementwise, norms included, is left out.
"""

from collections.abc import Sequence
from math import prod


def matmul(m: int, k: int, n: int) -> int:
    """`[m, k] @ [k, n]`."""
    return 2 * m * k * n


def convolution(x: Sequence[int], weight: Sequence[int], out: Sequence[int], transposed: bool = False) -> int:
    """Also either of its two gradients, each of which is as much work; groups are in the weight's shape."""
    return 2 * x[0] * prod(weight) * prod((x if transposed else out)[2:])


def attention(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> int:
    """`softmax(Q K^T) V` for `[..., L, d]`."""
    pairs = prod(query[:-1]) * key[-2]
    return 2 * pairs * (query[-1] + value[-1])


def fused_attention_backward(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> int:
    """Scores again, then the gradients of scores, `V`, `Q` and `K`: five products, all made together."""
    pairs = prod(query[:-1]) * key[-2]
    return 2 * pairs * (3 * query[-1] + 2 * value[-1])


def qr(m: int, n: int) -> int:
    """Thin QR of `m x n`: `R` and explicit `Q`."""
    m, n = max(m, n), min(m, n)
    return 4 * m * n**2 - 4 * n**3 // 3


def eigh(n: int) -> int:
    """Eigenvalues and vectors of a symmetric `n x n`."""
    return 9 * n**3


def svd(m: int, n: int) -> int:
    """Thin SVD of `m x n`."""
    m, n = max(m, n), min(m, n)
    return 6 * m * n**2 + 20 * n**3


def cholesky(n: int) -> int:
    """Cholesky factor of `n x n`."""
    return n**3 // 3


def triangular_solve(n: int, columns: int) -> int:
    """One triangular `n x n` system with `columns` right-hand sides."""
    return n**2 * columns
