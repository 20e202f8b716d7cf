"""Telling a first forward pass from its repetition inside the backward pass.

Gradient checkpointing runs a block twice. Statistics that advance the activation bases must be gathered
once, and a layer that is called several times must find the same per-call state again.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_repeating: bool | None = None  # None: decided by whether a backward pass is under way


def is_repeat() -> bool:
    """Whether this forward repeats an earlier one: inside any backward pass, unless declared otherwise."""
    return torch._C._current_graph_task_id() != -1 if _repeating is None else _repeating


@contextmanager
def declared(repeat: bool) -> Iterator[None]:
    """Forward passes inside are (or, although inside a backward pass, are not) repetitions."""
    global _repeating
    before, _repeating = _repeating, repeat
    try:
        yield
    finally:
        _repeating = before


class CallCounter(nn.Module):
    """Which call of this step's forward pass is running, for layers that are called more than once."""

    def __init__(self, calls: int):
        super().__init__()
        self.calls = calls
        self.position = 0

    def next(self) -> int:
        position = self.position % self.calls
        self.position = position + 1
        return position


def call_positions(module: nn.Module) -> list[tuple[CallCounter, int]]:
    """Where every call counter inside `module` stands, to be handed to `repeat_from`."""
    return [(counter, counter.position) for counter in module.modules() if isinstance(counter, CallCounter)]


@contextmanager
def repeat_from(positions: list[tuple[CallCounter, int]]) -> Iterator[None]:
    """Repeat a forward pass whose calls began at `positions`; the counters return to where they were."""
    now = [(counter, counter.position) for counter, _ in positions]
    for counter, position in positions:
        counter.position = position
    try:
        with declared(repeat=True):
            yield
    finally:
        for counter, position in now:
            counter.position = position
