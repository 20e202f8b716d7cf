"""Layers with an autograd Function of their own under `torch.autocast`."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


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
