"""Lower precision by `torch.autocast`, for a whole model and for layers that have their own autograd Function.

Weights, bases, optimizer states and updates stay float32.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from wasi.layers.activation import TuckerState


def autocast_forward(model: nn.Module, dtype: torch.dtype) -> None:
    """Run every forward pass of `model` under `torch.autocast` with `dtype`, and return its output as float32.

    This is done by forward hooks, which `copy.deepcopy` copies along with the model. The bases' `iterate_dtype`
    is set here, too: in data-parallel training, a process without images has no forward pass that would set it.
    """
    entered: list[torch.autocast] = []

    def enter(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        entered.append(torch.autocast(args[0].device.type, dtype))
        entered[-1].__enter__()

    def leave(module: nn.Module, args: tuple[Tensor, ...], output: Tensor | None) -> Tensor | None:
        entered.pop().__exit__(None, None, None)
        return None if output is None else output.float()

    for module in model.modules():
        if isinstance(module, TuckerState):
            module.iterate_dtype = dtype
    model.register_forward_pre_hook(enter, prepend=True)
    model.register_forward_hook(leave, always_call=True)  # leaves autocast after an exception, too


def as_autocast(x: Tensor, *tensors: Tensor | None) -> tuple[Any, ...]:
    """Cast `x` and `tensors` to autocast's type where autocast is on for the device of `x`; else return them unchanged.

    Autocast does not reach into a custom autograd Function, so the arguments of one are cast before the call. Each
    gradient comes back in its own tensor's type, as with the casts that autocast itself makes.
    """
    if not is_autocast_on(x):
        return x, *tensors
    dtype = autocast_dtype(x)
    return tuple(None if t is None else t.to(dtype) for t in (x, *tensors))


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return autocast's type where autocast is on for the device of `x`; else the type of `x`."""
    return torch.get_autocast_dtype(x.device.type) if is_autocast_on(x) else x.dtype


def is_autocast_on(x: Tensor) -> bool:
    """Return whether autocast casts operations on `x`; it has no `meta` device, and leaves float64 as it is."""
    return not x.is_meta and x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type)


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Return a context without autocast for the device of `x`: operations compute in the type of their arguments."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
