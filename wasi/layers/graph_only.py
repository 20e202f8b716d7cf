"""Linear layers that leave their output out, in a forward pass that is repeated for its graph alone.

The backward pass of `Y = X W^T + b` needs `X` and `W` but not `Y`. Where a part of a network ends in such a layer, and
what comes behind it (a residual sum, say) does not keep `Y` either, a repetition of that part can do without the
product, as `torch.utils.checkpoint` stops early once it has what the backward pass needs.
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
    """The backward pass of `F.linear(x, weight, bias)`, equal bit for bit on a CPU; the forward pass gives zeros."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        need_x, need_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if need_weight else None, weight if need_x else None)
        ctx.by_columns = x.dim() == 2 and x.stride() == (1, len(x))  # in memory; its gradient is then, too
        return left_out(x, weight)

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
    """`LinearGraph` for `F.conv2d`, `[B, C, H, W] -> [B, O, H', W']`; stride, padding and so on as `nn.Conv2d` has."""

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


def left_out(x: Tensor, weight: Tensor) -> Tensor:
    """Zeros in place of `X W^T` (`[..., O]`) for `x` (`[..., I]`) and a weight, or left factor, of `O` rows."""
    return x.new_zeros(*x.shape[:-1], weight.shape[0])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, output_needed: bool) -> Tensor:
    """`F.linear`, or its graph alone."""
    if output_needed:
        return F.linear(x, weight, bias)
    x, weight, bias = as_autocast(x, weight, bias)
    with without_autocast(x):
        return LinearGraph.apply(x, weight, bias)


def convolution_graph(layer: nn.Conv2d) -> Callable[[Tensor], Tensor] | None:
    """The graph of `layer(x)` alone, where it is an ordinary convolution with zeros, or nothing, around its input."""
    if type(layer) is not nn.Conv2d or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    if "forward" in vars(layer):  # which somebody has replaced
        return None

    def run(x: Tensor) -> Tensor:
        x, weight, bias = as_autocast(x, layer.weight, layer.bias)
        with without_autocast(x):
            return ConvolutionGraph.apply(x, weight, bias, layer)

    return run


class GraphOnlyRepetition:
    """`repetition = GraphOnlyRepetition(modules)`, then `with repetition(): run(x)` for one chunk after another.

    All of them give the graph of `run`. What they return is wrong from the second on: in the first, which is complete,
    a layer is looked for that can leave its output out in the others. It is the last `nn.Linear` that `run` calls, or
    layer with the attribute `output_needed`, if autograd keeps no tensor for the backward pass after it.

    Args:
        modules: what `run` calls. Nothing in it is compiled, keeps a tensor for the backward pass by other means than
            autograd's `save_for_backward`, or computes something else for one chunk than for another.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        self._modules, self._looked = modules, False
        self.layer: nn.Module | None = None  # that leaves its output out

    def __call__(self) -> AbstractContextManager[None]:
        return self._without_output() if self._looked else self._look()

    @contextmanager
    def _look(self) -> Iterator[None]:
        calls: list[nn.Module] = []

        def called(layer: nn.Module, args: Any, output: Any) -> None:
            calls.append(layer)
            is_first = calls.count(layer) == 1
            self.layer = layer if is_first and _can_leave_out(layer) else None

        def kept(tensor: Tensor) -> Tensor:
            self.layer = None
            return tensor

        with ExitStack() as stack:
            for module in {m for parent in self._modules for m in parent.modules()}:
                if isinstance(module, (LowRankLayer, nn.Linear)):
                    # before other hooks of the layer, which may keep its output
                    stack.callback(module.register_forward_hook(called, prepend=True).remove)
            stack.enter_context(saved_tensors_hooks(kept, lambda tensor: tensor))
            yield
        self._looked = True

    @contextmanager
    def _without_output(self) -> Iterator[None]:
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


def _can_leave_out(layer: nn.Module) -> bool:
    """Whether the layer's `forward` is one that is known, not replaced in the instance or by a subclass."""
    if "forward" in vars(layer):
        return False
    owner = next(cls for cls in type(layer).__mro__ if "forward" in vars(cls))
    return type(layer) is nn.Linear or "output_needed" in vars(owner)


def _graph_of(layer: nn.Linear, input: Tensor) -> Tensor:
    return linear(input, layer.weight, layer.bias, output_needed=False)
