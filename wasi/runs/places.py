"""Which GPU a job gets when a launcher runs several side by side on one machine.

The sweep's process says in the environment what there is to share out; a job's process takes one place of it for as
long as it lives, since a CUDA context stays where it was opened.
"""

import logging
import os
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

_VARIABLE = "WASI_PLACES"
_SECONDS = 1.0  # between two looks for a free place


def offer_places(names: Sequence[str]) -> None:
    """To the processes that this one starts: GPUs as CUDA_VISIBLE_DEVICES names them, or `cpu-N`."""
    os.environ[_VARIABLE] = ",".join(names)


@cache
def take_place() -> str | None:
    """Wait for a place and keep it; from then on CUDA sees this GPU alone. None where nothing is shared out.

    To be called before CUDA is looked at. The places are this user's on this machine, whatever sweep offers them.
    """
    names = [name for name in os.environ.get(_VARIABLE, "").split(",") if name]
    if not names:
        return None
    name = _wait_for_one(names)
    if not name.startswith("cpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = name
    return name


def _wait_for_one(names: Sequence[str]) -> str:
    folder = Path(tempfile.gettempdir()) / f"wasi-places-{os.getuid()}"
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
            log.info("waiting for one of %d places on this machine", len(names))
            waits = True
        time.sleep(_SECONDS)


_held: list[FileLock] = []  # until the process ends
