"""Attention in the coordinates of a low-rank projection: queries, keys and values are never formed.

Let `[q k v] = Z L^T` with coordinates `Z = X R^T` (`N x K` an image; where there is a bias, it is a column of `L`
and `Z` has one of ones). Then head `h` scores `Z (Lq_h^T Lk_h) Z^T` and gives the output projection
`P_h Z (Lv_h^T Wo_h^T)`: as many queries as before, but one key and value, `Z` itself, for all heads. The same to
rounding, and less work where `K` is small. DeepSeek-V2 (arXiv 2405.04434, 2.1) absorbs its projections so.
"""

import torch
from torch import Tensor


def saves_work(tokens: int, head_dim: int, rank: int, out_rank: int) -> bool:
    """Whether it needs fewer multiply-adds, by head and token, than queries, keys, values and `R_o` in turn.

    rank: `K`, that of the packed projection; out_rank: that of the output projection.
    """
    absorbed = rank * rank + 2 * tokens * rank + rank * out_rank
    return absorbed < 3 * head_dim * rank + 2 * tokens * head_dim + head_dim * out_rank


def mix(through: Tensor, left: Tensor, heads: int, tokens: int) -> Tensor:
    """Each head's `softmax(q k^T / sqrt(d)) Z`, side by side as `[B, N, heads * K]`.

    through: `Z^T`, `K x (B N)`; left: `L`, `3 heads d x K`.
    """
    k = len(through)
    z = through.mT.view(-1, tokens, k)
    q, key, _ = _by_head(left, heads)
    to_query = (q.mT @ key * q.shape[1] ** -0.5).transpose(0, 1).reshape(k, heads * k)
    queries = (through.mT @ to_query).view(-1, tokens * heads, k)
    return (torch.softmax(queries @ z.mT, -1) @ z).view(-1, tokens, heads * k)


def output_factor(left: Tensor, out_right: Tensor, heads: int) -> Tensor:
    """`R_o` (`K_o x heads d`) as a factor for what `mix` gives: `K_o x (heads K)`."""
    value = _by_head(left, heads)[2]
    out = out_right.view(len(out_right), heads, -1).transpose(0, 1)  # heads x K_o x d
    return (out @ value).transpose(0, 1).reshape(len(out_right), -1)


def _by_head(left: Tensor, heads: int) -> Tensor:
    """`[3, heads, d, K]`, a view where `left` is laid out row by row."""
    return left.reshape(3, heads, -1, left.shape[1])
