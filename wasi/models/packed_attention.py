"""Attention on packed queries, keys and values, without opening the pack: for few tokens on a CPU."""

from collections.abc import Iterator

import torch
from torch import Tensor

# Images between two passes over something elementwise: few enough to be in the cache still.
GROUP = 4


class PackedAttention(torch.autograd.Function):
    """`softmax(q k^T / sqrt(d)) v` of a pack `[B, N, 3, heads, d]`, as `[B, N, heads, d]`.

    Products take one image at a time, as strided views of the pack, and what they give is brought into the layout
    of the pack while it is in the cache. The usual way passes over the whole batch for every product, and copies
    queries, keys, values and each of their gradients. Keeps the pack and the probabilities (`[B, heads, N, N]`).
    """

    @staticmethod
    def forward(ctx, qkv: Tensor) -> Tensor:
        batch, tokens, _, heads, dim = qkv.shape
        weights = qkv.new_empty(batch, heads, tokens, tokens)
        out = qkv.new_empty(batch, tokens, heads, dim)
        held = qkv.new_empty(GROUP, heads, tokens, dim)
        q, k, v = _by_head(qkv)
        q, k_t, v, w = (t.unbind(0) for t in (q, k.mT, v, weights))
        for group in _groups(batch):
            for i in group:
                torch.baddbmm(w[i], q[i], k_t[i], beta=0, alpha=dim**-0.5, out=w[i])
            together = weights[group.start : group.stop]
            torch.softmax(together, -1, out=together)
            for i, o in zip(group, held, strict=False):
                torch.bmm(w[i], v[i], out=o)
            out.transpose(1, 2)[group.start : group.stop] = held[: len(group)]
        ctx.save_for_backward(qkv, weights)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        qkv, weights = ctx.saved_tensors
        batch, tokens, _, heads, dim = qkv.shape
        d_qkv = torch.empty_like(qkv)
        held = qkv.new_empty(3, GROUP, heads, tokens, dim)
        scores = qkv.new_empty(GROUP, heads, tokens, tokens)
        q, k, v = _by_head(qkv)
        q, k, v_t, w_t, g = (t.unbind(0) for t in (q, k, v.mT, weights.mT, grad.transpose(1, 2)))
        d_s, d_s_t, (d_q, d_k, d_v) = scores.unbind(0), scores.mT.unbind(0), (t.unbind(0) for t in held)
        for group in _groups(batch):
            for j, i in enumerate(group):
                torch.bmm(g[i], v_t[i], out=d_s[j])
            together, w = scores[: len(group)], weights[group.start : group.stop]
            torch._softmax_backward_data(together, w, -1, w.dtype, grad_input=together)
            for j, i in enumerate(group):
                torch.baddbmm(d_q[j], d_s[j], k[i], beta=0, alpha=dim**-0.5, out=d_q[j])
                torch.baddbmm(d_k[j], d_s_t[j], q[i], beta=0, alpha=dim**-0.5, out=d_k[j])
                torch.bmm(w_t[i], g[i], out=d_v[j])
            _by_head(d_qkv)[:, group.start : group.stop] = held[:, : len(group)]
        return d_qkv


def _by_head(qkv: Tensor) -> Tensor:
    """`[3, B, heads, N, d]`, a view."""
    return qkv.permute(2, 0, 3, 1, 4)


def _groups(batch: int) -> Iterator[range]:
    """Numbers of the images of one group after another; the last ones may be fewer."""
    return (range(start, min(start + GROUP, batch)) for start in range(0, batch, GROUP))
