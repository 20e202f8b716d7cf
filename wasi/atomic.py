"""Files that are either old or new, never half of one."""

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def atomic_write_text(path: Path, text: str) -> None:
    """Replace `path` by a file with `text` (UTF-8, line ends as they are) in one step."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by a file with `content` in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a temporary file beside `path`, to be written inside; then fsync and rename to `path`.

    No temporary file is left behind by a failure; one that kills the process leaves `path` as it was. The new file
    can be read by whom the user's umask lets, whatever the library that writes it thinks.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        os.chmod(temporary, mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Delete what processes of this machine that were killed inside `replacing(path)` have left beside it."""
    import psutil

    for file in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        process = file.name.split(".")[-2]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            file.unlink(missing_ok=True)
