"""Attention on packed queries, keys and values, without opening the pack: for few tokens on a CPU."""

import torch
from torch import Tensor


class PackedAttention(torch.autograd.Function):
    """`softmax(q k^T / sqrt(d)) v` of a pack `[B, N, 3, heads, d]`, as `[B, N, heads, d]`.

    Images are taken one at a time, as strided views of the pack, while they are in the cache, and the gradient is
    written straight into a pack. The usual way passes over the whole batch for every product, and copies queries,
    keys, values and each of their gradients. Keeps the pack and the probabilities (`[B, heads, N, N]`).
    """

    @staticmethod
    def forward(ctx, qkv: Tensor) -> Tensor:
        batch, tokens, _, heads, dim = qkv.shape
        weights = qkv.new_empty(batch, heads, tokens, tokens)
        out = qkv.new_empty(batch, tokens, heads, dim)
        for (q, k, v), w, o in zip(_by_head(qkv), weights, out.transpose(1, 2), strict=True):
            torch.baddbmm(w, q, k.mT, beta=0, alpha=dim**-0.5, out=w)
            torch.softmax(w, -1, out=w)
            o.copy_(torch.bmm(w, v))
        ctx.save_for_backward(qkv, weights)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        qkv, weights = ctx.saved_tensors
        d_qkv = torch.empty_like(qkv)
        images = zip(_by_head(qkv), weights, grad.transpose(1, 2), _by_head(d_qkv), strict=True)
        for (q, k, v), w, g, (d_q, d_k, d_v) in images:
            d_scores = torch._softmax_backward_data(torch.bmm(g, v.mT), w, -1, w.dtype)
            d_scores *= qkv.shape[-1] ** -0.5
            d_q.copy_(torch.bmm(d_scores, k))
            d_k.copy_(torch.bmm(d_scores.mT, q))
            d_v.copy_(torch.bmm(w.mT, g))
        return d_qkv


def _by_head(qkv: Tensor) -> Tensor:
    """`[B, 3, heads, N, d]`, a view."""
    return qkv.permute(0, 2, 3, 1, 4)
