"""Resident memory of this process, seen by the operating system. Meant for a fresh child process.

The allocator decides what of freed memory goes back to the system. `child_environment` makes it return what is
freed at once, see `wasi.allocator`; set it before the child starts.
"""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from wasi.allocator import returning_environment

MIB = 1024**2
_SAMPLING_SECONDS = 0.001


def child_environment(num_threads: int) -> dict[str, str]:
    """What a parent adds to the environment of a child whose memory or time is measured."""
    return {**returning_environment(), "OMP_NUM_THREADS": str(num_threads)}


def current_rss_mib() -> float:
    """Resident memory of this process now, imports and all."""
    return psutil.Process().memory_info().rss / MIB


def available_mib() -> float:
    """Memory of the machine that processes could have now without swapping."""
    return psutil.virtual_memory().available / MIB


def peak_rss_mib(run: Callable[[], object]) -> float:
    """Highest resident memory of this process while `run` runs, imports and all, in MiB.

    The baseline to subtract is a `current_rss_mib()` taken by the caller after imports and a model-free warm-up.
    On Linux the kernel keeps the high-water mark; elsewhere a thread samples every millisecond.
    """
    if _reset_high_water():
        run()
        return _high_water_mib()
    with _Sampler() as sampler:
        run()
    return sampler.peak / MIB


def process_peak_mib() -> float:
    """Highest resident memory of this process since it began, imports and all, in MiB.

    Where the kernel's high-water mark can be read, it is that since `peak_rss_mib` last reset it.
    """
    try:
        return _high_water_mib()
    except (OSError, StopIteration):
        import resource  # of Unix only, as are the platforms without /proc that torch trains on

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (MIB if sys.platform == "darwin" else 1024)


def over_limit(total_rss_mib: float, limit_mib: float | None) -> str | None:
    """One line saying how much was wanted and what is allowed, or None when it fits or nothing is set."""
    if limit_mib is None or total_rss_mib <= limit_mib:
        return None
    return f"device.memory_limit_mib={limit_mib:g}: the process wanted {total_rss_mib:.0f} MiB, imports included"


def _reset_high_water() -> bool:
    """Let the kernel's high-water mark start again from the present; False where that is not possible."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _high_water_mib() <= current_rss_mib() * 1.01 + 1
    except (OSError, StopIteration):
        return False


def _high_water_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


class _Sampler:
    """Thread that remembers the largest resident size it saw, in bytes."""

    def __enter__(self) -> "_Sampler":
        self._process, self._stop = psutil.Process(os.getpid()), threading.Event()
        self.peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _look(self) -> None:
        self.peak = max(self.peak, self._process.memory_info().rss)

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLING_SECONDS):
            self._look()
