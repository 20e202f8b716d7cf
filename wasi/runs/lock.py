"""A lock by which one process at a time has a run's folder, among all machines that share the file system."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from wasi import file_names
from wasi.config.sweep_options import in_sweep
from wasi.errors import UserError
from wasi.file_lock import file_lock

_PATIENCE = 1.0  # seconds; `is_locked` in another process holds the lock far more briefly, to test it


@contextmanager
def folder_lock(folder: Path, patience: float = _PATIENCE) -> Iterator[bool]:
    """Hold the folder's lock during the block; yield whether this process got it. The lock ends with its process.

    It is a lock on the file `.lock`, which NFS (version 3 with its lock service, or 4), Lustre with `-o flock`, GPFS
    and BeeGFS share between machines; they would not share one on the folder itself. On a file system without locks the
    existence of the file is the lock (`file_lock`).

    Args:
        patience: seconds to wait for a lock that another process holds.

    Raises:
        UserError: the lock cannot be opened.
    """
    lock = file_lock(folder / file_names.LOCK, patience)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        option = "hydra.sweep.dir" if in_sweep() else "hydra.run.dir"
        allowed = f"a folder whose {file_names.LOCK} is a file that can be opened ({error.strerror})"
        raise UserError(option, folder, allowed) from None
    try:
        yield True
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Return whether another process has the folder. Leaves no file behind.

    A lock that may not be opened counts as held.
    """
    lock = folder / file_names.LOCK
    if not lock.is_file():
        return False
    if not os.access(lock, os.R_OK | os.W_OK):
        return True
    with folder_lock(folder, patience=0) as alone:
        return not alone


def can_be_locked(folder: Path) -> bool:
    """Return whether this process may open the folder's lock, or could create it, whoever holds it."""
    lock = folder / file_names.LOCK
    return not lock.exists() or (lock.is_file() and os.access(lock, os.R_OK | os.W_OK))
