"""LoRA beside a frozen weight of 8 or 4 bits (QLoRA, Dettmers et al., arXiv 2305.14314)."""

from collections.abc import Sequence
from math import prod
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from wasi.layers.adapter import Adapter
from wasi.layers.autocast import as_autocast
from wasi.layers.base import LowRankLayer
from wasi.layers.skipped_output import linear
from wasi.optional import optional

KINDS = ("int8", "nf4")


class QuantizedWeight(nn.Module):
    """A quantised matrix (`O x I`), held as buffers of codes and scales.

    Args:
        weight: the matrix to quantise.
        kind: `int8`, symmetric with one scale per row, the row's largest magnitude over 127; or `nf4`, the 16 levels
            of NormalFloat with one scale per 64 numbers and two codes per byte, by bitsandbytes.
    """

    code: Tensor
    scale: Tensor
    levels: Tensor  # the 16 values that codes of `nf4` stand for, relative to the scale

    def __init__(self, weight: Tensor, kind: str):
        super().__init__()
        self.shape, self.kind = tuple(weight.shape), kind
        weight = weight.detach()
        if kind == "int8":
            scale = weight.abs().amax(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny) / 127
            code = (weight / scale).round().to(torch.int8)
        else:
            code, state = _bitsandbytes().quantize_4bit(weight.float(), blocksize=64, quant_type="nf4")
            scale = state.absmax
            self.register_buffer("levels", state.code)
        self.register_buffer("code", code)
        self.register_buffer("scale", scale)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Return the dequantised matrix (`O x I`) in `dtype`, a new tensor each time."""
        if self.kind == "int8":
            return (self.code.to(self.scale.dtype) * self.scale).to(dtype)
        library, options = _bitsandbytes(), {"blocksize": 64, "quant_type": "nf4", "dtype": torch.float32}
        state = library.QuantState(self.scale, torch.Size(self.shape), self.levels, **options)
        return library.dequantize_4bit(self.code, state).to(dtype)

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers())

    def extra_repr(self) -> str:
        return f"{self.shape[0]} x {self.shape[1]}, {self.kind}"


def _bitsandbytes() -> ModuleType:
    return optional("bitsandbytes.functional", "method.base", "nf4")


class QuantizedAdapterLinear(LowRankLayer):
    """`Y = X Q^T + b + scale * X A^T B^T` with a quantised, frozen `Q`.

    It computes in the input's type, or autocast's. The dequantised `Q` exists only during its products; the backward
    pass dequantises it again. There is no `merged()`: `Q + scale * B A` would have to be dense, in full precision.

    Args:
        weight: `O x I`, quantised to `Q`.
        bias: `[O]` or None; its `requires_grad` is left unchanged.
        rank, alpha: of the `Adapter`; kind: of the `QuantizedWeight`.
    """

    trains_bias = False
    output_needed = True
    bias: nn.Parameter | None

    def __init__(
        self,
        weight: Tensor,
        bias: nn.Parameter | None,
        rank: int,
        alpha: float,
        generator: torch.Generator,
        kind: str,
    ):
        super().__init__(weight.shape[1], weight.shape[0])
        self.base = QuantizedWeight(weight, kind)
        self.register_parameter("bias", bias)
        self.adapter = Adapter(weight.detach(), rank, alpha, generator)

    def forward(self, x: Tensor) -> Tensor:
        x, bias = as_autocast(x, self.bias)  # else autocast would make a copy of `Q`, and autograd would save that
        dtype = x.dtype
        weight = self.base.dense(dtype)
        own = weight.untyped_storage().data_ptr()

        def pack(saved: Tensor) -> Any:
            if saved.untyped_storage().data_ptr() != own:
                return saved
            return saved.size(), saved.stride(), saved.storage_offset()

        def unpack(kept: Any) -> Tensor:
            return kept if isinstance(kept, Tensor) else self.base.dense(dtype).as_strided(*kept)

        with saved_tensors_hooks(pack, unpack):
            y = linear(x, weight, bias, self.output_needed)
        return y + self.adapter(x, self.output_needed)

    def weight_factors(self) -> tuple[Tensor, ...]:
        return (self.adapter.merged_weight(self.base.dense(self.adapter.A.dtype)),)

    def stored_elements(self, shape: Sequence[int]) -> int:
        return prod(shape) + prod(shape[:-1]) * self.adapter.A.shape[0]
