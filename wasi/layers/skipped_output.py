"""Linear layers that skip their product in a forward pass that is recomputed only for its autograd graph.

The backward pass of `Y = X W^T + b` needs `X` and `W` but not `Y`. Where a segment of a network ends in such a layer,
and what follows it there (a residual sum, say) does not save `Y` either, recomputing the segment for its backward pass
does not need the product, just as `torch.utils.checkpoint` stops early once it has all saved tensors.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from wasi.layers.autocast import as_autocast, without_autocast
from wasi.layers.base import LowRankLayer


class LinearGraph(torch.autograd.Function):
    """The graph of `F.linear(x, weight, bias)`: forward returns zeros, backward the gradients of `F.linear`.

    The gradients are bitwise equal to those of `F.linear` on a CPU.
    """

    @staticmethod
    def forward(ctx, x, weight, bias):
        need_x, need_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if need_weight else None, weight if need_x else None)
        ctx.by_columns = x.dim() == 2 and x.stride() == (1, len(x))  # column-major, as its gradient then is, too
        return placeholder_output(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        d_x = None
        if weight is not None:
            d_x = (weight.mT @ grad.mT).mT if ctx.by_columns else grad @ weight
        d_weight = None if x is None else rows.mT @ x.reshape(-1, x.shape[-1])
        return d_x, d_weight, rows.sum(0) if ctx.needs_input_grad[2] else None


class ConvolutionGraph(torch.autograd.Function):
    """`LinearGraph` for `F.conv2d`, `[B, C, H, W] -> [B, O, H', W']`, with the options of the `nn.Conv2d` `layer`."""

    @staticmethod
    def forward(ctx, x, weight, bias, layer: nn.Conv2d):
        ctx.save_for_backward(x, weight)
        ctx.layer = layer
        assert not isinstance(layer.padding, str)
        around = zip(x.shape[2:], layer.padding, strict=True)
        within = zip(layer.dilation, layer.kernel_size, strict=True)
        room = [d + 2 * p - e * (k - 1) for (d, p), (e, k) in zip(around, within, strict=True)]
        sizes = [(size - 1) // s + 1 for size, s in zip(room, layer.stride, strict=True)]
        return x.new_zeros(len(x), len(weight), *sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        layer, need = ctx.layer, ctx.needs_input_grad[:3]
        shape = layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups
        found = torch.ops.aten.convolution_backward(grad, x, weight, [len(weight)] if need[2] else None, *shape, need)
        return *found, None


def placeholder_output(x: Tensor, weight: Tensor) -> Tensor:
    """Return zeros `[..., O]` in place of `X W^T`, for `x` (`[..., I]`) and a weight or left factor of `O` rows."""
    return x.new_zeros(*x.shape[:-1], weight.shape[0])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, output_needed: bool) -> Tensor:
    """Return `F.linear(x, weight, bias)`, or, if the output is not needed, zeros with the same autograd graph."""
    if output_needed:
        return F.linear(x, weight, bias)
    x, weight, bias = as_autocast(x, weight, bias)
    with without_autocast(x):
        return LinearGraph.apply(x, weight, bias)


def convolution_graph(layer: nn.Conv2d) -> Callable[[Tensor], Tensor] | None:
    """Return a function that gives zeros with the autograd graph of `layer(x)`, or None where that is not supported.

    Supported is an `nn.Conv2d` itself, with its own `forward`, zero padding, and the padding given in numbers.
    """
    if type(layer) is not nn.Conv2d or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    if "forward" in vars(layer):  # replaced on the instance, so what it computes is not known
        return None

    def run(x: Tensor) -> Tensor:
        x, weight, bias = as_autocast(x, layer.weight, layer.bias)
        with without_autocast(x):
            return ConvolutionGraph.apply(x, weight, bias, layer)

    return run


class GraphOnlyRepetition:
    """Recompute `run(x)` chunk by chunk for its autograd graph, without the last product from the second chunk on.

    Use: `repetition = GraphOnlyRepetition(modules)`, then `with repetition(): y = run(x)` for each chunk. The graph of
    `y` is always that of `run`; the values of `y` are right for the first chunk only. That one is computed in full to
    find the layer that can skip its output in the others: the last `nn.Linear` or `LowRankLayer` that `run` calls, if
    it supports that, is called once, and autograd saves no tensor after it. If there is none, all chunks are computed
    in full.

    Args:
        modules: the modules that `run` calls. None of them may be compiled, save tensors for the backward pass by
            other means than autograd's `save_for_backward`, or compute different operations for different chunks.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        self._modules, self._has_run = modules, False
        self.layer: nn.Module | None = None  # the layer that skips its output

    def __call__(self) -> AbstractContextManager[None]:
        return self._skipping_output() if self._has_run else self._finding_layer()

    @contextmanager
    def _finding_layer(self) -> Iterator[None]:
        calls: list[nn.Module] = []

        def called(layer: nn.Module, args: Any, output: Any) -> None:
            calls.append(layer)
            is_first = calls.count(layer) == 1
            self.layer = layer if is_first and _can_skip_output(layer) else None

        def kept(tensor: Tensor) -> Tensor:
            self.layer = None
            return tensor

        with ExitStack() as stack:
            for module in {m for parent in self._modules for m in parent.modules()}:
                if isinstance(module, (LowRankLayer, nn.Linear)):
                    # before the layer's other hooks: what they save comes after the layer
                    stack.callback(module.register_forward_hook(called, prepend=True).remove)
            stack.enter_context(saved_tensors_hooks(kept, lambda tensor: tensor))
            yield
        self._has_run = True

    @contextmanager
    def _skipping_output(self) -> Iterator[None]:
        if (layer := self.layer) is None:
            yield
            return
        name: str = "output_needed"
        value: Any = False
        if isinstance(layer, nn.Linear):
            name, value = "forward", partial(_graph_of, layer)
        setattr(layer, name, value)
        try:
            yield
        finally:
            delattr(layer, name)


def _can_skip_output(layer: nn.Module) -> bool:
    """Return whether `layer` can skip its output: it is an `nn.Linear` itself, or its `forward` has `output_needed`.

    A `forward` that is replaced on the instance, or overridden in a class that does not define `output_needed`, does
    not.
    """
    if "forward" in vars(layer):
        return False
    owner = next(cls for cls in type(layer).__mro__ if "forward" in vars(cls))
    return type(layer) is nn.Linear or "output_needed" in vars(owner)


def _graph_of(layer: nn.Linear, input: Tensor) -> Tensor:
    return linear(input, layer.weight, layer.bias, output_needed=False)
