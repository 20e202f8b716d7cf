"""How much other processes were in the way: the time that threads were ready to run and waited for a processor.

Linux counts it for every thread (`/proc/PID/task/TID/schedstat`: nanoseconds on a processor, nanoseconds waiting for
one). It holds inside containers and for processes bound to some processors, where the load of the machine tells little.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

BUSY = 0.1  # share of waiting from which on times are not to be trusted
_CROWDED = 0.3  # from which on fewer threads are likely to be quicker

Clocks = Mapping[str, tuple[int, int]]  # thread -> ns on a processor, ns waiting for one


def clocks(pid: int | str = "self") -> Clocks:
    """Clocks of all threads that a process has now; empty where the system does not tell them."""
    found = {}
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            ran, waited, _ = map(int, path.read_text().split())
        except (OSError, ValueError):  # a thread that has just ended
            continue
        found[path.parent.name] = (ran, waited)
    return found


def spent(before: Clocks, after: Clocks) -> tuple[int, int]:
    """Nanoseconds that threads ran, and that they waited, since `before`.

    >>> spent({"1": (100, 0)}, {"1": (400, 50), "2": (0, 50)})
    (300, 100)
    """
    ran, waited = (
        sum(clock[kind] - before.get(thread, (0, 0))[kind] for thread, clock in after.items()) for kind in (0, 1)
    )
    return ran, waited


def share(ran: int, waited: int) -> float | None:
    """Of the time that threads wanted to run, the part spent waiting; None where nothing is known."""
    return waited / (ran + waited) if ran + waited > 0 else None


def contention(before: Clocks) -> dict[str, float]:
    """`cpu_wait_share` of this process since `before`, as in a result's provenance; absent where it is not known."""
    found = share(*spent(before, clocks()))
    return {} if found is None else {"cpu_wait_share": found}


def crowding_warning(threads: int) -> Callable[[int, int], None]:
    """A listener for the ends of epochs that warns once where other processes slow down a run of several threads.

    Threads of one operation wait for the last of them: one that has no processor holds up all.

    Args:
        threads: of this process's operations.

    Returns:
        A function of (epochs, steps) done.
    """
    before, told = clocks(), threads < 2

    def look(epochs: int, steps: int) -> None:
        nonlocal told
        waited = share(*spent(before, clocks()))
        if not told and epochs and waited is not None and waited >= _CROWDED:
            told = True
            log.warning(
                "busy machine: threads waited %.0f %% of their time for a processor, and each operation for its last "
                "thread; device.num_threads=1 may be many times as fast", 100 * waited,
            )  # fmt: skip

    return look
