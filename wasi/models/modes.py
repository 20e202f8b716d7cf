"""Contexts for observing a model: in evaluation mode, or without fused attention operators."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode and disable gradients; afterwards every module returns to its previous mode."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Disable the fused fast path of `nn.MultiheadAttention` in evaluation mode, which hides its operations."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
