"""The cores of the machine that this process may use."""

import os

JOB_SLOTS = "WASI_JOB_SLOTS"  # the variable in which a sweep's process lists the slots of its jobs, by commas


def usable_cores() -> int:
    """Return the number of cores that this process is bound to or, where systems do not tell that, of all cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
