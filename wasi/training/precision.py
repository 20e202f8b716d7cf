"""`device.dtype=bfloat16`: forward passes under autocast; weights, bases, optimizer and updates stay float32."""

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
