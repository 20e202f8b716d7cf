"""Atomic replacement of files: a reader sees the old content or the new, never a part of it."""

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
    r"""Replace `path` atomically by a file with `text` (UTF-8, line ends as they are).

    A byte of a file's name that is not UTF-8, for which Python has a surrogate, is written as `\udcff`.
    """
    atomic_write_bytes(path, text.encode("utf-8", "backslashreplace"))


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` atomically by a file with `content`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a temporary file beside `path` to write to; then fsync it and rename it to `path`.

    A failure leaves no temporary file behind; one that kills the process leaves `path` as it was. Permissions of the
    new file follow the user's umask, whichever library wrote it.
    """
    temporary = _temporary(path)
    try:
        with _put_in_place(temporary, path):
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_from_folder(path: Path) -> Iterator[Path]:
    """Do as `replacing`, with the temporary file in a temporary folder of its own.

    For a library that itself writes into a temporary file beside the one that it is given (safetensors: `.tmp` and six
    random letters). If the process is killed, that file's name does not show who wrote it; the name of the folder does.
    """
    folder = _temporary(path)
    try:
        folder.mkdir(exist_ok=True)
        with _put_in_place(folder / path.name, path):
            yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary(path: Path) -> Path:
    """Return `.NAME.HOST-PROCESS-THREAD.tmp`, unique among writers on all machines that share the file system."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{threading.get_native_id()}.tmp")


def _host() -> str:
    """Return this machine's name without characters that have a meaning in a path or in a temporary file's name."""
    return re.sub(r"[^\w-]", "_", platform.node())


@contextmanager
def _put_in_place(temporary: Path, path: Path) -> Iterator[None]:
    temporary.touch()
    mode = temporary.stat().st_mode
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names no file
        raise
    os.chmod(temporary, mode)
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def check_replacing(path: Path) -> None:
    """Create and delete the temporary file of `replacing(path)`; raises OSError where that is not possible."""
    temporary = _temporary(path)
    temporary.touch()
    temporary.unlink()


def remove_leftovers(path: Path) -> None:
    """Delete what killed processes of this machine left in `replacing(path)` or `replacing_from_folder(path)`.

    Files of other machines stay, as it cannot be known here whether their processes still run.
    """
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
