"""Files that are either old or new, never half of one."""

import glob
import os
import platform
import re
import shutil
import threading
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
    temporary = _temporary(path)
    try:
        with _put_in_place(temporary, path):
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_from_folder(path: Path) -> Iterator[Path]:
    """As `replacing`, with the temporary file in a folder of its own.

    For a library that writes into a temporary file of its own making beside the file that it is given (safetensors:
    `.tmp` and six random letters). What a kill leaves of that tells nobody whose it is; the folder around it does.
    """
    folder = _temporary(path)
    try:
        folder.mkdir(exist_ok=True)
        with _put_in_place(folder / path.name, path):
            yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary(path: Path) -> Path:
    """`.NAME.HOST-PROCESS-THREAD.tmp`, which no other writer has, on whatever machine that shares the file system."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{threading.get_native_id()}.tmp")


def _host() -> str:
    """This machine's name without what means something in a path or separates parts of a temporary name."""
    return re.sub(r"[^\w-]", "_", platform.node())


@contextmanager
def _put_in_place(temporary: Path, path: Path) -> Iterator[None]:
    temporary.touch()
    mode = temporary.stat().st_mode
    yield
    os.chmod(temporary, mode)
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def remove_leftovers(path: Path) -> None:
    """Delete what processes of this machine that were killed inside `replacing(path)` or `replacing_from_folder(path)`
    have left beside it. Of another machine's, nobody here knows whether they are at work."""
    import psutil

    written = re.compile(rf"\.{re.escape(path.name)}\.{re.escape(_host())}-(\d+)-\d+\.tmp")
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        found = written.fullmatch(left.name)
        if found and not psutil.pid_exists(int(found[1])):
            remove(left)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
