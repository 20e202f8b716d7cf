"""The C library's allocator, where it can be told what to do with freed memory (glibc). No torch."""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")
_TOP_PAD = 64 * 2**20


def keep_freed_memory() -> bool:
    """From now on freed memory stays with this process, so that the next step finds its pages mapped.

    Otherwise every step returns its wide tensors to the system and pays for a page fault every 4 KiB when it asks
    for them again: several per cent of a step on a CPU. Settings of malloc in the environment win.

    Returns whether it took effect.
    """
    if any(name in os.environ for name in (*_SETTINGS, "GLIBC_TUNABLES")):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    options = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: _TOP_PAD}
    return all(mallopt(name, value) for name, value in options.items())


def release_memory() -> None:
    """Give back what is free at this moment: another process may need it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return
