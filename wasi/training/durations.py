"""Durations of training steps, taken without waiting for the device."""

from collections.abc import Callable
from time import perf_counter

import torch


class Durations:
    """Seconds of pieces of work on one device: of the host's clock, or, on a GPU, between two events of its own.

    Events are recorded among the GPU's work, so the host need not wait for them. To read its own clock, it would have
    to wait for the GPU before and after a step, and could not start operations in advance.
    """

    def __init__(self, device: torch.device):
        self._on_gpu = device.type == "cuda"
        self._seconds: list[float] = []
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def start(self) -> Callable[[], None]:
        """Begin a piece of work; calling what this returns ends it. One that is not ended is not counted."""
        if not self._on_gpu:
            begin = perf_counter()
            return lambda: self._seconds.append(perf_counter() - begin)
        first = self._event()
        return lambda: self._note(first, self._event())

    def seconds(self) -> list[float]:
        """Return all durations, in order; on a GPU this waits for the end of the work."""
        if self._pending:
            self._pending[-1][1].synchronize()
        self._read_what_has_ended()
        return list(self._seconds)

    def _note(self, first: torch.cuda.Event, last: torch.cuda.Event) -> None:
        self._pending.append((first, last))
        self._read_what_has_ended()  # else two events would be held for every step of an epoch

    def _read_what_has_ended(self) -> None:
        while self._pending and self._pending[0][1].query():
            first, last = self._pending.pop(0)
            self._seconds.append(first.elapsed_time(last) / 1000)

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
