"""The folder of a data set's files, and errors for missing files and failed downloads. Imports no torch."""

import logging
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from wasi.errors import UserError
from wasi.file_lock import file_lock
from wasi.paths import expanded

log = logging.getLogger(__name__)

DEFAULT_ROOT = "data"
# What urllib, torchvision's checksums and the unpackers raise; OSError includes URLError and time-outs.
_FAILURES = (OSError, EOFError, RuntimeError, HTTPException, tarfile.TarError, zipfile.BadZipFile, zlib.error)


def root_of(cfg_dataset) -> Path:
    """Return `dataset.root` as a path; raises UserError where it is null."""
    root = cfg_dataset["root"]
    if root is None:
        raise UserError("dataset.root", "null", f"a folder for dataset={cfg_dataset['name']}")
    return expanded(str(root))


@contextmanager
def looking_below_root(cfg_dataset) -> Iterator[None]:
    """Turn what the system refuses, such as a folder without permission or a name too long, into a UserError."""
    try:
        yield
    except OSError as error:
        allowed = f"a folder that can be read; {error.filename}: {error.strerror}"
        raise UserError("dataset.root", cfg_dataset["root"], allowed) from error


def missing(cfg_dataset, what: str, looked_in: list[Path]) -> UserError:
    """Return (not raise) a UserError: none of the folders `looked_in` has `what`; dataset.download=true fetches it."""
    folders = " or ".join(str(folder.absolute()) for folder in looked_in)
    allowed = f"a folder that holds {what} (not found in {folders}); dataset.download=true fetches what is missing"
    return UserError("dataset.root", cfg_dataset["root"], allowed)


def _extract_safely() -> None:
    """Make PEP 706's tar filter `data` the default: it refuses paths that leave the folder, and devices.

    torchvision unpacks archives with the default, which before Python 3.14 is no filter.
    """
    if hasattr(tarfile, "data_filter"):  # since 3.10.12 and 3.11.4
        tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)


@contextmanager
def downloading(cfg_dataset, what: str) -> Iterator[None]:
    """Turn a failed download into a UserError that says which files to put under `dataset.root` instead.

    A file lock admits one process at a time, so that concurrent jobs do not write the same file; those that waited find
    it complete.
    """
    _extract_safely()
    log.info("downloading what is missing of %s to %s", cfg_dataset["name"], cfg_dataset["root"])
    root = root_of(cfg_dataset)
    try:
        with ExitStack() as stack:
            with suppress(OSError):  # not writable: the data may be there already
                root.mkdir(parents=True, exist_ok=True)
                stack.enter_context(file_lock(root / ".download.lock"))
            yield
    except _FAILURES as error:
        reason = (str(error).strip().splitlines() or [""])[-1] or type(error).__name__
        allowed = (
            f"true only where the download works ({reason}); "
            f"without a network, point dataset.root at a folder that holds {what}"
        )
        raise UserError("dataset.download", "true", allowed) from error
