"""Where a data set's files lie, and what is told when they are not there. No torch at import."""

import logging
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock

from wasi.errors import UserError

log = logging.getLogger(__name__)

DEFAULT_ROOT = "data"
# What urllib, torchvision's checksums and the unpackers raise; OSError includes URLError and time-outs.
_FAILURES = (OSError, EOFError, RuntimeError, HTTPException, tarfile.TarError, zipfile.BadZipFile, zlib.error)


def root_of(cfg_dataset) -> Path:
    """`dataset.root` as a path; UserError where there is none."""
    root = cfg_dataset["root"]
    if root is None:
        raise UserError("dataset.root", "null", f"a folder for dataset={cfg_dataset['name']}")
    return Path(str(root)).expanduser()


def missing(cfg_dataset, what: str, looked_in: list[Path]) -> UserError:
    """`what` is not there: where was looked, and what to do about it."""
    places = " or ".join(str(folder.absolute()) for folder in looked_in)
    allowed = f"a folder that holds {what} (not found in {places}); dataset.download=true fetches what is missing"
    return UserError("dataset.root", cfg_dataset["root"], allowed)


def _extract_safely() -> None:
    """Archives give data only: no absolute paths, none above the folder, no devices (PEP 706's filter `data`).

    As the interpreter's default, for the archives that torchvision unpacks; before Python 3.14 it is none.
    """
    if hasattr(tarfile, "data_filter"):  # since 3.10.12 and 3.11.4
        tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)


@contextmanager
def downloading(cfg_dataset, what: str) -> Iterator[None]:
    """A failure inside becomes a UserError that says what to put under `dataset.root` instead.

    One process at a time is inside, as jobs side by side would write one file together; those that waited find it.
    """
    _extract_safely()
    log.info("downloading what is missing of %s to %s", cfg_dataset["name"], cfg_dataset["root"])
    root = root_of(cfg_dataset)
    try:
        with ExitStack() as stack:
            with suppress(OSError):  # a folder that cannot be written into: nothing is downloaded, data may be there
                root.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(root / ".download.lock"))
            yield
    except _FAILURES as error:
        reason = (str(error).strip().splitlines() or [""])[-1] or type(error).__name__
        allowed = (
            f"true only where the download works ({reason}); "
            f"without a network, point dataset.root at a folder that holds {what}"
        )
        raise UserError("dataset.download", "true", allowed) from error
