"""A weights file looked at without torch: is it there, is it a safetensors file, what does it hold."""

import json
import struct
from pathlib import Path

from wasi.errors import UserError

KEYWORDS = ("pretrained", "random", "surrogate")
ALLOWED = " | ".join(KEYWORDS) + " | the path of a .safetensors file"
_MAX_HEADER = 100 * 2**20  # the format's own limit


def tensor_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a safetensors file's tensors, from its header alone.

    Raises UserError (`model.weights`) for a path that is no such file, and for one that holds low-rank factors.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError("model.weights", path, f"{ALLOWED}; there is no such file")
    try:
        header = _header(file)
        shapes = {key: tuple(entry["shape"]) for key, entry in header.items() if key != "__metadata__"}
    except OSError as error:
        raise UserError("model.weights", path, f"{ALLOWED}; this file cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        raise UserError("model.weights", path, f"{ALLOWED}; this file is not in safetensors format") from None
    if any(key.endswith((".L", ".R")) for key in shapes):
        raise UserError("model.weights", path, "a file of dense weights; this one holds low-rank factors")
    return shapes


def _header(file: Path) -> dict:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > _MAX_HEADER:
            raise ValueError("no safetensors header")
        return json.loads(stream.read(length))
