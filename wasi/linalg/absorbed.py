"""Attention in the coordinates of a low-rank projection: queries, keys and values are never formed.

Let `[q k v] = Z L^T` with coordinates `Z = X R^T` (`N x K` an image; where there is a bias, it is a column of `L`
and `Z` has one of ones). Head `h` then has the scores `Z (Lq_h^T Lk_h) Z^T`, and adds `P_h Z (Lv_h^T Ro_h^T)` to
the coordinates of the output projection, `Ro_h` being its columns of `R_o`: as many queries as before, but one key
and value, `Z` itself, for all heads. The same to rounding, and less work where `K` is small. DeepSeek-V2 (arXiv
2405.04434, 2.1) absorbs its projections so.
"""

import torch
from torch import Tensor

# Images at a time, few enough for their queries and scores to be in the cache still.
GROUP = 4


def saves_work(tokens: int, head_dim: int, rank: int, out_rank: int) -> bool:
    """Whether it needs fewer multiply-adds than queries, keys, values and `R_o` in turn, even for a single image.

    Scores are written out, so never where they would be larger than queries and keys.

    Args:
        rank: `K`, that of the packed projection; out_rank: that of the output projection.
    """
    if tokens > head_dim:
        return False
    of_factors = head_dim * rank * (rank + out_rank)
    absorbed = tokens * (rank * rank + 2 * tokens * rank + rank * out_rank) + of_factors
    called = tokens * (3 * head_dim * rank + 2 * tokens * head_dim + head_dim * out_rank)
    return absorbed < called


def mix(through: Tensor, left: Tensor, heads: int, tokens: int) -> Tensor:
    """Each head's `softmax(q k^T / sqrt(d)) Z`, side by side as `[B, N, heads * K]`; a few images at a time.

    through: `Z^T`, `K x (B N)`; left: `L`, `3 heads d x K`.
    """
    k = len(through)
    z = through.mT.view(-1, tokens, k)
    q, key, _ = _by_head(left, heads)
    to_query = (q.mT @ key * q.shape[1] ** -0.5).transpose(0, 1).reshape(k, heads * k)
    mixed = left.new_empty(len(z), tokens, heads * k)
    for some, seen in zip(mixed.split(GROUP), z.split(GROUP), strict=True):
        queries = (seen.reshape(-1, k) @ to_query).view(-1, tokens * heads, k)
        weights = queries @ seen.mT
        torch.softmax(weights, -1, out=weights)
        torch.bmm(weights, seen, out=some.view(-1, tokens * heads, k))
    return mixed


def output_factor(left: Tensor, out_right: Tensor, heads: int) -> Tensor:
    """`R_o` (`K_o x heads d`) as a factor for what `mix` gives: `K_o x (heads K)`."""
    value = _by_head(left, heads)[2]
    out = out_right.view(len(out_right), heads, -1).transpose(0, 1)  # heads x K_o x d
    return (out @ value).transpose(0, 1).reshape(len(out_right), -1)


def _by_head(left: Tensor, heads: int) -> Tensor:
    """`[3, heads, d, K]`, a view."""
    return left.view(3, heads, -1, left.shape[1])
