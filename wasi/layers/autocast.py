"""Narrower arithmetic by `torch.autocast`: of a whole model, and of layers with an autograd Function of their own.

Weights, bases, optimizer and updates stay float32.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn


def autocast_forward(model: nn.Module, dtype: torch.dtype) -> None:
    """Every forward pass of `model` computes in `dtype` what `torch.autocast` does there; what it returns is float32.

    By hooks, which a copy of the model takes along.
    """
    entered: list[torch.autocast] = []

    def enter(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        entered.append(torch.autocast(args[0].device.type, dtype))
        entered[-1].__enter__()

    def leave(module: nn.Module, args: tuple[Tensor, ...], output: Tensor | None) -> Tensor | None:
        entered.pop().__exit__(None, None, None)
        return None if output is None else output.float()

    model.register_forward_pre_hook(enter, prepend=True)
    model.register_forward_hook(leave, always_call=True)  # after an exception too


def as_autocast(x: Tensor, *tensors: Tensor | None) -> tuple[Any, ...]:
    """`x` and `tensors` in the type that autocast computes in on their device, where it is on; else as they are.

    Autocast looks into no autograd Function, so its arguments are cast before. Gradients come back in each one's own
    type, as those of the casts that autocast makes itself.
    """
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return x, *tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(None if t is None else t.to(dtype) for t in (x, *tensors))


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Inside, everything on the device of `x` is computed in the type of its arguments."""
    return torch.autocast(x.device.type, enabled=False)
