"""Attention modules whose projections are `nn.Linear` children that are *called*, so that they can be replaced.

torchvision reads `in_proj_weight` and `qkv.weight` directly, so a layer put in their place would be ignored. The
modules here hold the parameters of the originals, not copies, and compute the same up to rounding. Those for Swin are
also faster at inference than torchvision's, so every method gets them (`replace_window_attention`).
"""

import math
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasi.errors import UserError
from wasi.models.structure import find_blocks


def unpack_attention(model: nn.Module) -> nn.Module:
    """Replace the attention modules of the model's blocks by equal ones with linear children `qkv` and `proj`.

    The model is changed in place and returned. Modules that already call their linear layers are kept.

    Raises:
        UserError: an `nn.MultiheadAttention` has separate or appended key and value parameters, or no `batch_first`.
    """
    replace_window_attention(model)
    for parent, name, child in _parts_of_blocks(model):
        _prepare(child, model)
        if isinstance(child, nn.MultiheadAttention):
            setattr(parent, name, SelfAttention(child).train(child.training))
    return model


def replace_window_attention(model: nn.Module) -> nn.Module:
    """Replace torchvision's shifted-window attention (Swin) in the model's blocks, in place; return the model."""
    kinds = {"ShiftedWindowAttention": WindowAttention, "ShiftedWindowAttentionV2": CosineWindowAttention}
    for parent, name, child in _parts_of_blocks(model):
        kind = type(child)
        if kind.__module__.startswith("torchvision.") and kind.__name__ in kinds:
            setattr(parent, name, kinds[kind.__name__](child).train(child.training))
    return model


def _parts_of_blocks(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """List (parent, name, module) of all modules within the model's blocks."""
    parents = [parent for block in find_blocks(model).values() for parent in block.modules()]
    return [(parent, name, child) for parent in parents for name, child in parent.named_children()]


def _prepare(module: Any, model: Any) -> None:
    """Set up an attention module of timm's so that its linear layers can be replaced by other layers."""
    if hasattr(module, "get_rel_indices"):  # ConViT would read `qk.weight.device` later
        weight = module.qk.weight
        like = module.rel_indices if weight.is_meta else weight  # buffers have values where parameters have none
        stand_in = SimpleNamespace(qk=SimpleNamespace(weight=like))
        module.rel_indices = type(module).get_rel_indices(stand_in, model.patch_embed.num_patches)
    if hasattr(module, "qkv_bias_separate"):  # BEiT, EVA, Swin v2: call `qkv`, then add the bias
        module.qkv_bias_separate = True


def _linear(weight: Tensor, bias: nn.Parameter | None) -> nn.Linear:
    """Return an nn.Linear that holds these parameters, not copies."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = weight
    linear.register_parameter("bias", bias)
    return linear


class SelfAttention(nn.Module):
    """Replacement for an `nn.MultiheadAttention` that is used for self-attention, `B x N x D` -> `B x N x D`.

    `forward` takes `need_weights` and none of the original's other options. It raises ValueError for cross-attention
    and for `need_weights=True`.
    """

    def __init__(self, original: nn.MultiheadAttention):
        super().__init__()
        packed = original.in_proj_weight is not None and original.batch_first
        if not packed or original.bias_k is not None or original.add_zero_attn:
            kind = "attention with separate or appended keys and values"
            raise UserError("method.scope", "attention", f"mlp for a model that has {kind}")
        self.num_heads = original.num_heads
        self.dropout = original.dropout
        self.qkv = _linear(original.in_proj_weight, original.in_proj_bias)
        self.proj = _linear(original.out_proj.weight, original.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, None]:
        if query is not key or key is not value or need_weights:
            raise ValueError("only the attention of a sequence with itself, without its weights, is supported")
        batch, tokens, width = query.shape
        qkv = self.qkv(query).view(batch, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, width)), None


class WindowAttention(nn.Module):
    """Replacement for torchvision's shifted-window attention (Swin), `B x H x W x C` -> `B x H x W x C`.

    `qkv` is applied to the whole padded map and `proj` to the whole map, not to windows. The result is the same, as a
    linear layer treats all tokens alike, and their inputs keep the batch as the first mode.
    """

    relative_position_index: Tensor

    def __init__(self, original: Any):
        super().__init__()
        self.window_size, self.shift_size = list(original.window_size), list(original.shift_size)
        self.num_heads = original.num_heads
        self.attention_dropout, self.dropout = original.attention_dropout, original.dropout
        self.qkv = _linear(original.qkv.weight, original.qkv.bias)
        self.proj = _linear(original.proj.weight, original.proj.bias)
        self._take_position_bias(original)

    def _take_position_bias(self, original: Any) -> None:
        self.relative_position_bias_table = original.relative_position_bias_table
        self.register_buffer("relative_position_index", original.relative_position_index)

    def _bias_per_offset(self) -> Tensor:
        """Return the position bias of each relative offset, `offsets x heads`."""
        return self.relative_position_bias_table

    def _position_bias(self) -> Tensor:
        """Return the position bias `heads x n x n` for the `n` tokens of a window."""
        n = math.prod(self.window_size)
        bias = self._bias_per_offset()[self.relative_position_index]
        return bias.view(n, n, self.num_heads).permute(2, 0, 1)

    def _projected(self, x: Tensor) -> Tensor:
        return self.qkv(x)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout)

    def forward(self, x: Tensor) -> Tensor:
        _, height, width, _ = x.shape
        window_h, window_w = self.window_size
        x = F.pad(x, (0, 0, 0, -width % window_w, 0, -height % window_h))
        fits = (window_h < x.shape[1], window_w < x.shape[2])  # as torchvision: no shift where one window spans the map
        shift = [shift * fit for shift, fit in zip(self.shift_size, fits, strict=True)]
        if any(shift):
            x = torch.roll(x, (-shift[0], -shift[1]), (1, 2))
        x = self._windows_attend(self._projected(x), shift)
        if any(shift):
            x = torch.roll(x, shift, (1, 2))
        x = self.proj(x[:, :height, :width].contiguous())
        return F.dropout(x, self.dropout, self.training)

    def _windows_attend(self, qkv: Tensor, shift: list[int]) -> Tensor:
        """Return the attention within each window, `B x H x W x C`, from queries, keys and values `B x H x W x 3C`."""
        batch, height, width, channels = qkv.shape
        (window_h, window_w), heads = self.window_size, self.num_heads
        rows, columns, dim = height // window_h, width // window_w, channels // 3 // heads
        qkv = qkv.view(batch, rows, window_h, columns, window_w, 3, heads, dim)
        # windows and heads share one axis, so that each window can have its own mask without a copy per image
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = qkv.reshape(3, batch, rows * columns * heads, window_h * window_w, dim).unbind(0)
        dropout = self.attention_dropout if self.training else 0.0
        out = self._attend(q, k, v, self._mask(rows, columns, shift), dropout)
        out = out.view(batch, rows, columns, heads, window_h, window_w, dim).permute(0, 1, 4, 2, 5, 3, 6)
        return out.reshape(batch, height, width, heads * dim)

    def _mask(self, rows: int, columns: int, shift: list[int]) -> Tensor:
        """Return position bias plus shift mask, to be added to the logits: `1 x (windows * heads) x n x n`."""
        n = math.prod(self.window_size)
        bias = self._position_bias().unsqueeze(0)
        if any(shift):
            bias = bias + self._shift_mask(rows, columns, shift, bias).unsqueeze(1)
        return bias.expand(rows * columns, self.num_heads, n, n).reshape(1, -1, n, n)

    def _shift_mask(self, rows: int, columns: int, shift: list[int], like: Tensor) -> Tensor:
        """Return -100 between tokens that are in one window only due to the cyclic shift, else 0: `windows x n x n`."""
        window_h, window_w = self.window_size
        region = _regions(rows * window_h, window_h, shift[0], like.device)[:, None] * 3
        region = region + _regions(columns * window_w, window_w, shift[1], like.device)
        region = region.view(rows, window_h, columns, window_w).permute(0, 2, 1, 3).reshape(rows * columns, -1)
        return (region[:, None] != region[:, :, None]).to(like.dtype) * -100.0


def _regions(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Return, per position along one axis, 0 before the last window, 1 in it, and 2 where the shift wrapped around."""
    position = torch.arange(size, device=device)
    return (position >= size - window).long() + (position >= size - shift).long() * (shift > 0)


class CosineWindowAttention(WindowAttention):
    """Replacement for the attention of torchvision's Swin v2: cosine similarity, learned scale, position bias network.

    The original sets the bias of the keys to zero, so `qkv` has no bias here, and those of queries and values are
    added to its output.
    """

    def __init__(self, original: Any):
        super().__init__(original)
        self.qkv_bias = original.qkv.bias
        self.qkv.register_parameter("bias", None)
        self.logit_scale = original.logit_scale

    def _take_position_bias(self, original: Any) -> None:
        self.cpb_mlp = original.cpb_mlp
        self.register_buffer("relative_coords_table", original.relative_coords_table)
        self.register_buffer("relative_position_index", original.relative_position_index)

    def _bias_per_offset(self) -> Tensor:
        return 16 * torch.sigmoid(self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads))

    def _projected(self, x: Tensor) -> Tensor:
        if self.qkv_bias is None:
            return self.qkv(x)
        q_bias, k_bias, v_bias = self.qkv_bias.chunk(3)
        return self.qkv(x) + torch.cat([q_bias, torch.zeros_like(k_bias), v_bias])

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float) -> Tensor:
        scale = self.logit_scale.clamp(max=math.log(100.0)).exp()
        scale = scale.repeat(q.shape[1] // self.num_heads, 1, 1)  # dimension 1 holds windows x heads
        q, k = F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=1.0)
