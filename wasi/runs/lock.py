"""One process at a time in a run's folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def sole_owner(folder: Path) -> Iterator[bool]:
    """Whether this process has the folder to itself while the block runs. The lock dies with its process.

    True where the file system knows no locks.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _locked(handle)
    finally:
        os.close(handle)


def is_at_work(folder: Path) -> bool:
    """Whether another process has the folder."""
    with sole_owner(folder) as alone:
        return not alone


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
