"""Downloads end in data or in one line."""

import logging
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

from wasi.errors import UserError

log = logging.getLogger(__name__)

# What urllib, torchvision's checksums and the unpackers raise; OSError includes URLError and time-outs.
_FAILURES = (OSError, EOFError, RuntimeError, HTTPException, tarfile.TarError, zipfile.BadZipFile, zlib.error)


def _extract_safely() -> None:
    """Archives give data only: no absolute paths, none above the folder, no devices (PEP 706's filter `data`).

    As the interpreter's default, for the archives that torchvision unpacks; before Python 3.14 it is none.
    """
    if hasattr(tarfile, "data_filter"):  # since 3.10.12 and 3.11.4
        tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)


@contextmanager
def downloading(cfg_dataset, what: str) -> Iterator[None]:
    """A failure inside becomes a UserError that says what to put under `dataset.root` instead."""
    _extract_safely()
    log.info("downloading %s to %s", cfg_dataset["name"], cfg_dataset["root"])
    try:
        yield
    except _FAILURES as error:
        reason = (str(error).strip().splitlines() or [""])[-1] or type(error).__name__
        allowed = (
            f"true only where the download works ({reason}); "
            f"without a network, point dataset.root at a folder that holds {what}"
        )
        raise UserError("dataset.download", "true", allowed) from error
