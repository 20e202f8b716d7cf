"""`train.memory=lean`: a step in which no wide tensor of the whole batch outlives its block.

Each transformer block runs over the batch in chunks and keeps only its input, stored narrowly. The backward
pass walks the blocks from the last to the first, repeats each chunk's inside, and adds up its gradients. The
patch embedding does the same from the images as bytes. So the gradient is that of the whole batch, every
Tucker basis advances once per step, and clipping is the ordinary one by the global norm.

Gradients are held until the step, as without `lean`; WASI's, kept as coordinates (`O x r`), are thin.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from wasi.errors import UserError
from wasi.layers.base import LowRankLayer
from wasi.layers.recompute import declared
from wasi.models.structure import find_blocks
from wasi.training.step import TrainStep


class ChunkedRepeat(torch.autograd.Function):
    """`run(x)` chunk by chunk without a graph; in the backward pass again, with one, chunk by chunk.

    Args:
        anchor: empty tensor that requires a gradient, so that parameters inside `run` train even where `x`
            itself needs no gradient.
        x: `[B, ...]`; what `run` gives for a chunk of it must not depend on the others.
        size: images per chunk; storage: type in which `x` waits for the backward pass.
    """

    @staticmethod
    def forward(ctx, anchor: Tensor, x: Tensor, run: Callable[[Tensor], Tensor], size: int, storage: torch.dtype):
        ctx.run, ctx.size, ctx.dtype = run, size, x.dtype
        ctx.rng = torch.get_rng_state(), get_device_states(x)  # dropout must fall the same way again
        stored = x.to(storage) if x.is_floating_point() else x
        ctx.save_for_backward(stored)
        out = None
        for start in range(0, len(x), size):
            # From what is stored, so that the repetition below is exact.
            part = run(stored[start : start + size].to(x.dtype))
            if out is None:
                out = part.new_empty(len(x), *part.shape[1:])
            out[start : start + size] = part
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        (stored,) = ctx.saved_tensors
        need = ctx.needs_input_grad[1]
        d_x = torch.empty(stored.shape, dtype=ctx.dtype, device=stored.device) if need else None
        on_cpu, (devices, on_devices) = ctx.rng
        with torch.random.fork_rng(devices):
            torch.set_rng_state(on_cpu)
            set_device_states(devices, on_devices)
            for start in range(0, len(stored), ctx.size):
                part = slice(start, start + ctx.size)
                # `to` may return the stored chunk itself: detached, so that it is a leaf of this chunk's graph.
                x = stored[part].to(ctx.dtype).detach().requires_grad_(need)
                with torch.enable_grad(), declared(repeat=False):  # the first pass that sees a graph
                    ctx.run(x).backward(grad[part])
                if need:
                    d_x[part] = x.grad
        return None, d_x, None, None, None


class LeanStep(TrainStep):
    """`TrainStep` whose blocks and patch embedding run as `ChunkedRepeat`; images stay bytes until used.

    Args:
        chunk_size: images per chunk; storage: `torch.float32` or `torch.bfloat16`, the type in which block
            inputs wait for the backward pass. bfloat16 rounds the stream between blocks while training.
    """

    def __init__(self, *args, chunk_size: int, storage: torch.dtype, **kwargs):
        super().__init__(*args, **kwargs)
        _refuse_repeated_layers(self.model)
        self.chunk_size, self._storage = chunk_size, storage
        self._anchor = torch.empty(0, device=self.device, requires_grad=True)
        blocks, (name, embedding) = find_blocks(self.model), first_convolution(self.model)
        self.repeated = (name, *blocks)
        self._whole = {module: module.forward for module in (embedding, *blocks.values())}
        self._pieces = {block: self._chunked(block, block.forward) for block in blocks.values()}
        self._pieces[embedding] = self._chunked(embedding, self._normalizing(embedding.forward))
        _set_forwards(self._pieces)

    @contextmanager
    def unchunked(self) -> Iterator[None]:
        _set_forwards(self._whole)
        try:
            yield
        finally:
            _set_forwards(self._pieces)

    def prepare(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images.to(self.device), labels.to(self.device)

    def _normalizing(self, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        @wraps(forward)
        def run(x: Tensor) -> Tensor:
            return forward(x if x.is_floating_point() else self.normalize(x))

        return run

    def _chunked(self, module: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(forward)
        def run(x: Tensor, *args, **kwargs) -> Tensor:
            trains = x.requires_grad or any(p.requires_grad for p in module.parameters())
            if not (torch.is_grad_enabled() and trains and module.training):
                return forward(x, *args, **kwargs)
            return ChunkedRepeat.apply(
                self._anchor, x, lambda part: forward(part, *args, **kwargs), self.chunk_size, self._storage
            )

        return run


def _set_forwards(forwards: Mapping[nn.Module, Callable[..., Tensor]]) -> None:
    for module, forward in forwards.items():
        module.forward = forward


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Name and module of the patch embedding's convolution, the first in the model.

    Raises:
        UserError: the model has none, so it cannot take images as bytes.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    raise UserError("train.memory", "lean", "plain for a model without a patch embedding's convolution")


def _refuse_repeated_layers(model: nn.Module) -> None:
    if any(isinstance(m, LowRankLayer) and len(m.states) > 1 for m in model.modules()):
        raise UserError("train.memory", "lean", "plain for a model that calls a linear layer more than once")
