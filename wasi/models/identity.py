"""The identity of a configuration's weights in the run's fingerprint: a file's hash, or else the keyword."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from wasi.models.micro import SHIPPED_WEIGHTS
from wasi.models.weights_file import KEYWORDS, weights_path

_BLOCK = 2**20


def weights_identity(cfg_model) -> str:
    """Return `sha256:…` of the weights file, `absent` if it does not exist, or the keyword (`random`, …).

    The pretrained weights of `vit_micro`, which ship with the project, are identified by their file's hash, too.
    """
    source = str(cfg_model["weights"])
    if source == "pretrained" and cfg_model["name"] == "vit_micro":
        return _file_identity(SHIPPED_WEIGHTS)
    return source if source in KEYWORDS else _file_identity(weights_path(source))


def _file_identity(path: Path) -> str:
    if not os.path.isfile(path):  # also where the system does not let it be looked at
        return "absent"
    status = path.stat()
    return _digest(str(path.resolve()), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: str, size: int, mtime_ns: int) -> str:
    """Hash a file; cached, with its size and modification time as parts of the key."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"
