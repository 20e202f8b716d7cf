"""Parts of a network that save only their input: they run chunk by chunk, and again in the backward pass."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import get_device_states, set_device_states

from wasi.allocator import long_lived

_SMALL = 2**16  # bytes: gradients below this size share a mapping instead of having one each


@dataclass(frozen=True)
class Repeated:
    """A part of the network that `ChunkedCheckpoint` runs chunk by chunk.

    Attributes:
        run: the forward function, in `dtype`; its result for a chunk must not depend on other chunks.
        size: images per chunk.
        dtype: type in which `run` computes.
        storage: type in which activations are saved for the backward pass; uint8 images are saved as they are.
        out: type of the result and of its gradient.
        parameters: the parameters that `run` uses, and the coordinates `C` of its factored layers; bases get gradients,
            too, but are not included.
        done: called at the end of the backward pass, when the gradients of `parameters` are complete.
        rerun: recomputed in the backward pass for its graph; `run`, or a cheaper function with the same graph.
        repetition: called once per backward pass; makes the context that is entered around `rerun` of each chunk.
    """

    run: Callable[[Tensor], Tensor]
    size: int
    dtype: torch.dtype
    storage: torch.dtype
    out: torch.dtype
    parameters: Sequence[Tensor]
    done: Callable[[], None]
    rerun: Callable[[Tensor], Tensor]
    repetition: Callable[[], Callable[[], AbstractContextManager]]

    def computable(self, x: Tensor) -> Tensor:
        """Cast activations to `dtype`; uint8 images stay as they are, since the patch embedding normalises them."""
        return x.to(self.dtype) if x.is_floating_point() else x


class ChunkedCheckpoint(torch.autograd.Function):
    """Compute `part.run(x)` chunk by chunk without a graph, and recompute each chunk with one in the backward pass.

    Gradients of parameters are accumulated in their `.grad` by the backward pass of each chunk.

    Args:
        anchor: an empty tensor that requires a gradient, so that the backward pass is run, and the parameters inside
            `part` are trained, even if `x` does not require a gradient.
        x: `[B, ...]`, activations or uint8 images.
        part: what to run.
    """

    @staticmethod
    def forward(ctx, anchor, x: Tensor, part: Repeated):
        ctx.part, ctx.in_dtype = part, x.dtype
        kind = x.device.type
        ctx.autocast = {"dtype": torch.get_autocast_dtype(kind), "enabled": torch.is_autocast_enabled(kind)}
        ctx.rng = torch.get_rng_state(), get_device_states(x)  # the recomputation must draw the same dropout masks
        stored = x.to(part.storage) if x.is_floating_point() else x
        ctx.save_for_backward(stored)
        result = None
        for start in range(0, len(x), part.size):
            y = part.run(part.computable(stored[start : start + part.size]))  # on the rounded input, as when recomputed
            if result is None:
                result = long_lived((len(x), *y.shape[1:]), part.out, x.device)
            result[start : start + part.size] = y
        return result

    @staticmethod
    @once_differentiable  # each chunk's graph ends with its own backward pass
    def backward(ctx, grad: Tensor):
        (stored,) = ctx.saved_tensors
        part, need = ctx.part, ctx.needs_input_grad[1]
        d_x = long_lived(stored.shape, ctx.in_dtype, stored.device) if need else None
        new = [parameter for parameter in part.parameters if parameter.grad is None]
        repetition = part.repetition()
        on_cpu, (devices, on_devices) = ctx.rng
        with torch.random.fork_rng(devices):
            torch.set_rng_state(on_cpu)
            set_device_states(devices, on_devices)
            for start in range(0, len(stored), part.size):
                chunk = slice(start, start + part.size)
                # `to` may return the stored chunk itself; detaching makes it a leaf of this chunk's graph.
                x = part.computable(stored[chunk]).detach().requires_grad_(need)
                with torch.enable_grad(), torch.autocast(x.device.type, **ctx.autocast), repetition():
                    y = part.rerun(x)
                y.backward(grad[chunk].to(y.dtype))
                if need:
                    d_x[chunk] = x.grad  # type: ignore[index]  # neither is None if `need`
                if x.device.type == "cpu":
                    _move_gradients(new)
                new = []
        part.done()
        return None, d_x, None


@torch.no_grad()
def _move_gradients(parameters: Iterable[Tensor]) -> None:
    """Move the gradients of `parameters` out of the heap (`long_lived`), small ones of a type into one tensor."""
    small: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if (grad := parameter.grad) is None:
            continue
        if grad.nbytes < _SMALL:
            small.setdefault(grad.dtype, []).append(parameter)
        else:
            parameter.grad = long_lived(grad.shape, grad.dtype, grad.device).copy_(grad)
    for dtype, owners in small.items():
        sizes = [parameter.numel() for parameter in owners]
        together = long_lived((sum(sizes),), dtype, owners[0].device)
        for parameter, part in zip(owners, together.split(sizes), strict=True):
            parameter.grad = part.view(parameter.shape).copy_(parameter.grad)
