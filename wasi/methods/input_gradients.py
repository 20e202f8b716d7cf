"""Input gradients with activation checkpointing: only one transformer block's autograd graph is in memory at a time.

`torch.utils.checkpoint` does not serve: its reentrant form refuses `torch.autograd.grad`, and its other one would run
tensor hooks on the graph of the first forward pass, too, which holds the inputs of all layers.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_leaves

from wasi.models.mapped import release_pages
from wasi.models.modes import eval_mode
from wasi.models.structure import find_blocks


@contextmanager
def for_input_gradients(model: nn.Module) -> Iterator[None]:
    """Put `model` in evaluation mode and checkpoint its blocks, for `autograd.grad` with respect to the images alone.

    Each block saves only its input and is recomputed in the backward pass (arXiv 1604.06174). The pages of
    memory-mapped weights are released once their block's backward pass is done (`wasi.models.mapped`). Gradients
    equal those of an ordinary backward pass bit for bit. Tensor hooks that are registered during a forward pass fire
    once, in the recomputation. Parameters get no gradient.
    """
    with ExitStack() as stack:
        for block in find_blocks(model).values():
            stack.callback(_put_back, block, vars(block).get("forward"))
            block.forward = _with_checkpointing(block, block.forward)
        stack.enter_context(eval_mode(model))
        stack.enter_context(torch.enable_grad())
        yield


def _with_checkpointing(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return `forward` of `block` with recomputation in the backward pass."""

    @wraps(forward)
    def run(x: Any, *args, **kwargs) -> Any:
        others = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not (isinstance(x, Tensor) and x.requires_grad) or any(other.requires_grad for other in others):
            return forward(x, *args, **kwargs)  # `_Recompute` passes gradients to `x` alone
        # With gradients enabled, so that torch picks the same kernels as in the recomputation; the graph is dropped.
        once = forward(x.detach().requires_grad_(), *args, **kwargs)
        if not isinstance(once, Tensor):
            return forward(x, *args, **kwargs)
        again, done = (lambda y: forward(y, *args, **kwargs)), (lambda: release_pages(block.parameters()))
        return _Recompute.apply(x, once.detach(), again, done)

    return run


class _Recompute(torch.autograd.Function):
    """Returns `y`, which must equal `run(x)`; the backward pass recomputes `run(x)` with a graph and calls `done`."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, run: Callable[[Tensor], Tensor], done: Callable[[], None]) -> Tensor:
        ctx.run, ctx.done = run, done
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @once_differentiable  # the graph of the recomputation ends here
    def backward(ctx, grad: Tensor):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.run(x)
        (d_x,) = torch.autograd.grad(y, x, grad, allow_unused=True)
        ctx.done()
        return d_x, None, None, None


def _put_back(module: nn.Module, forward: Any) -> None:
    """Restore a module's own `forward` attribute; None: it had none, and its class's method is used again."""
    del module.forward
    if forward is not None:
        module.forward = forward
