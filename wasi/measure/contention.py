"""Contention with other processes: the time during which threads were ready to run and waited for a processor.

Linux counts it for every thread (`/proc/PID/task/TID/schedstat`: nanoseconds on a processor, nanoseconds waiting for
one). Unlike the machine's load, it is meaningful within containers and for processes bound to some processors.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

BUSY = 0.1  # share of waiting from which on measured times are not reliable
_CROWDED = 0.3  # share of waiting from which on fewer threads are likely to be faster

Clocks = Mapping[str, tuple[int, int]]  # thread -> ns on a processor, ns waiting for one


def clocks() -> Clocks:
    """Return the counters of all current threads of this process; empty where the system does not provide them."""
    found = {}
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            ran, waited, _ = map(int, path.read_text().split())
        except (OSError, ValueError):  # a thread that has just ended
            continue
        found[path.parent.name] = (ran, waited)
    return found


def spent(before: Clocks, after: Clocks) -> tuple[int, int]:
    """Return the nanoseconds, summed over threads, for which they ran and for which they waited, since `before`.

    >>> spent({"1": (100, 0)}, {"1": (400, 50), "2": (0, 50)})
    (300, 100)
    """
    ran, waited = (
        sum(clock[kind] - before.get(thread, (0, 0))[kind] for thread, clock in after.items()) for kind in (0, 1)
    )
    return ran, waited


def share(ran: int, waited: int) -> float | None:
    """Return the fraction `waited / (ran + waited)` of the time in which threads could have run; None if both are 0."""
    return waited / (ran + waited) if ran + waited > 0 else None


def contention(before: Clocks) -> dict[str, float]:
    """Return `cpu_wait_share` of this process since `before`, for a result's provenance; empty if it is not known."""
    found = share(*spent(before, clocks()))
    return {} if found is None else {"cpu_wait_share": found}


def crowding_warning(threads: int) -> Callable[[int, int], None]:
    """Return a callback that warns, once, if other processes slow down a run with several threads.

    The threads of one operation wait for the last of them, so one that does not get a processor delays all.

    Args:
        threads: number of threads per operation of this process; with one, there is no warning.

    Returns:
        A function of the numbers of epochs and steps done, to be called at the end of each epoch.
    """
    before, warned = clocks(), threads < 2

    def look(epochs: int, steps: int) -> None:
        nonlocal warned
        waited = share(*spent(before, clocks()))
        if not warned and epochs and waited is not None and waited >= _CROWDED:
            warned = True
            log.warning(
                "busy machine: threads waited %.0f %% of their time for a processor, and each operation for its last "
                "thread; device.num_threads=1 may be many times as fast", 100 * waited,
            )  # fmt: skip

    return look
