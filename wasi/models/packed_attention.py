"""Attention on packed queries, keys and values, without opening the pack: for few tokens on a CPU."""

import torch
from torch import Tensor


class PackedAttention(torch.autograd.Function):
    """`softmax(q k^T / sqrt(d)) v` of a pack `[B, N, 3, heads, d]`, as `[B, N, heads, d]`.

    Heads are taken one at a time, as strided views of the pack, and the gradient is written straight into a pack:
    the usual way copies queries, keys, values and each of their gradients once or twice, which with few tokens
    takes longer than the products. Keeps the pack and the probabilities (`[heads, B, N, N]`).
    """

    @staticmethod
    def forward(ctx, qkv: Tensor) -> Tensor:
        out, weights = attend(qkv)
        ctx.save_for_backward(qkv, weights)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        qkv, weights = ctx.saved_tensors
        q, k, v = qkv.unbind(2)
        d_weights = torch.empty_like(weights)
        for head, d_w in enumerate(d_weights):
            torch.bmm(grad[:, :, head], v[:, :, head].mT, out=d_w)
        d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
        d_scores *= qkv.shape[-1] ** -0.5
        d_qkv = torch.empty_like(qkv)
        d_q, d_k, d_v = d_qkv.unbind(2)
        for head, (d_s, w) in enumerate(zip(d_scores, weights, strict=True)):
            d_q[:, :, head] = torch.bmm(d_s, k[:, :, head])
            d_k[:, :, head] = torch.bmm(d_s.mT, q[:, :, head])
            d_v[:, :, head] = torch.bmm(w.mT, grad[:, :, head])
        return d_qkv


def attend(qkv: Tensor) -> tuple[Tensor, Tensor]:
    """What `PackedAttention` gives, and the probabilities `[heads, B, N, N]`; not differentiable."""
    batch, tokens, _, heads, dim = qkv.shape
    q, k, v = qkv.unbind(2)
    weights = qkv.new_empty(heads, batch, tokens, tokens)
    for head, w in enumerate(weights):
        torch.baddbmm(w, q[:, :, head], k[:, :, head].mT, beta=0, alpha=dim**-0.5, out=w)
    torch.softmax(weights, -1, out=weights)
    out = qkv.new_empty(batch, tokens, heads, dim)
    for head, w in enumerate(weights):
        out[:, :, head] = torch.bmm(w, v[:, :, head])
    return out, weights
