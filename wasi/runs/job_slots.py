"""Assigns a slot, a GPU or a share of the CPU cores, to each job when a launcher runs several on one machine.

The sweep's process lists the slots in an environment variable. A job's process takes one for as long as it lives,
since its CUDA context stays on the GPU where it was created.
"""

import logging
import os
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from wasi.cores import JOB_SLOTS
from wasi.errors import UserError

log = logging.getLogger(__name__)

_SECONDS = 1.0  # between two attempts to find a free slot


def publish_job_slots(names: Sequence[str]) -> None:
    """Offer slots to the processes that this one starts.

    Args:
        names: GPUs as CUDA_VISIBLE_DEVICES names them, or `cpu-N`.
    """
    os.environ[JOB_SLOTS] = ",".join(names)


@cache
def acquire_job_slot() -> str | None:
    """Wait for a free slot, keep it until the process ends, and return its name; None if no slots are offered.

    If it is a GPU, CUDA sees this one alone from then on, so call this before CUDA is initialised. A slot is locked
    for all sweeps of this user on this machine, not only for the one that offers it.

    Raises:
        UserError: the locks cannot be made or opened in the folder for temporary files.
    """
    names = [name for name in os.environ.get(JOB_SLOTS, "").split(",") if name]
    if not names:
        return None
    try:
        name = _wait_for_one(names)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        allowed = f"a folder in which the locks of the jobs' slots can be made and opened ({where}{error.strerror})"
        raise UserError("TMPDIR", os.environ.get("TMPDIR"), allowed) from None
    if not name.startswith("cpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = name
    return name


def _wait_for_one(names: Sequence[str]) -> str:
    folder = Path(tempfile.gettempdir()) / f"wasi-job-slots-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    waits = False
    while True:
        for name in names:
            lock = FileLock(folder / f"{name.replace('/', '_')}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            _held.append(lock)
            return name
        if not waits:
            log.info("waiting for one of %d slots on this machine", len(names))
            waits = True
        time.sleep(_SECONDS)


_held: list[FileLock] = []  # locks of the slots taken, until the process ends
