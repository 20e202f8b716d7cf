"""One process at a time in a run's folder, on whatever machine that shares the file system."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_NAME = ".lock"
_PATIENCE = 1.0  # seconds; `is_at_work` in another process holds a lock for far less, to look at it


@contextmanager
def sole_owner(folder: Path, patience: float = _PATIENCE) -> Iterator[bool]:
    """Whether this process has the folder to itself while the block runs. The lock dies with its process.

    A lock on the file `.lock`, which NFS (version 3 with its lock service, or 4), Lustre with `-o flock`, GPFS and
    BeeGFS keep between machines; a lock on the folder itself they would not. Where the file system knows no locks the
    file's being there is the lock, which names its process (`filelock`).

    Args:
        patience: seconds after which a lock that another process has is taken for held.
    """
    lock = FileLock(folder / _NAME, timeout=patience)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_at_work(folder: Path) -> bool:
    """Whether another process has the folder. Makes no file; a lock that may not be opened is taken for held."""
    lock = folder / _NAME
    if not lock.exists():
        return False
    if not os.access(lock, os.R_OK | os.W_OK):
        return True
    with sole_owner(folder, patience=0) as alone:
        return not alone
