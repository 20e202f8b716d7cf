"""Files that are either old or new, never half of one."""

import os
from pathlib import Path


def atomic_write_text(path: Path, text: str) -> None:
    """Replace `path` by a file with `text` (UTF-8, line ends as they are) in one step."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """A temporary file beside `path`, fsync, rename; no temporary file is left behind by a failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
