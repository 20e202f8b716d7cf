"""A lock on a file, also where the file system has no locks."""

import errno
import fcntl
from pathlib import Path
from tempfile import TemporaryFile

from filelock import BaseFileLock, FileLock, SoftFileLock


def file_lock(path: Path, timeout: float = -1) -> BaseFileLock:
    """Return a lock, not acquired yet, on the file `path`, or one whose file's existence is the lock.

    The latter is for file systems without locks. `FileLock` notices these, too, but filelock up to 3.21 raises
    NotImplementedError there, and up to 4.0, the last for Python 3.10, it deletes the file of whoever has the lock.

    Args:
        timeout: seconds after which `acquire` raises `filelock.Timeout`; -1 to wait without end.
    """
    return (FileLock if _has_locks(path.parent) else SoftFileLock)(path, timeout=timeout)


def _has_locks(folder: Path) -> bool:
    """Try a lock on a file without a name; one on a folder may be granted where those on files are not."""
    try:
        with TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # another than ENOSYS is for `acquire` to meet, as in a folder that cannot be written into
        return error.errno != errno.ENOSYS
    return True
