"""Resident memory (RSS) of this process, as the operating system counts it. Meant for a fresh child process.

Which freed memory is returned to the system depends on the allocator, so a process is to be measured with the
allocator settings with which it trains.
"""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

MIB = 1024**2
_SAMPLING_SECONDS = 0.001


def child_environment(num_threads: int | None) -> dict[str, str]:
    """Return the environment variables to add for a child process that is measured; None keeps its thread count."""
    return {"OMP_NUM_THREADS": str(num_threads)} if num_threads else {}


def current_rss_mib() -> float:
    """Return the current resident memory of this process in MiB, imports included."""
    return psutil.Process().memory_info().rss / MIB


def available_mib() -> float:
    """Return the memory in MiB that the machine could give to processes now without swapping."""
    return psutil.virtual_memory().available / MIB


def peak_rss_mib(run: Callable[[], object]) -> float:
    """Return the peak resident memory of this process in MiB while `run` runs, imports included.

    For the peak of a step alone, subtract a `current_rss_mib()` taken after imports and a warm-up without model.
    On Linux the kernel's high-water mark is reset and read; elsewhere a thread samples every millisecond.
    """
    if _reset_high_water():
        run()
        return _high_water_mib()
    with _Sampler() as sampler:
        run()
    return sampler.peak / MIB


def process_peak_mib() -> float:
    """Return the peak resident memory of this process in MiB since its start, imports included.

    On Linux it is the peak since `peak_rss_mib` last reset the kernel's high-water mark.
    """
    try:
        return _high_water_mib()
    except (OSError, StopIteration):
        import resource  # Unix only; used where /proc is missing, as on macOS

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (MIB if sys.platform == "darwin" else 1024)


def over_limit(total_rss_mib: float, limit_mib: float | None) -> str | None:
    """Return a message if `total_rss_mib` exceeds `limit_mib`; None if it does not, or there is no limit."""
    if limit_mib is None or total_rss_mib <= limit_mib:
        return None
    return f"device.memory_limit_mib={limit_mib:g}: the process wanted {total_rss_mib:.0f} MiB, imports included"


def _reset_high_water() -> bool:
    """Reset the kernel's high-water mark to the current resident memory; return False if that is not possible."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _high_water_mib() <= current_rss_mib() * 1.01 + 1
    except (OSError, StopIteration):
        return False


def _high_water_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


class _Sampler:
    """A context manager whose thread samples the resident memory; `peak` is the largest value in bytes."""

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
