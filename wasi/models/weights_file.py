"""Check a safetensors file and read its header, without torch."""

import json
import struct
from pathlib import Path
from typing import Any

from wasi.errors import UserError
from wasi.models.header import METADATA_KEY, ModelHeader

KEYWORDS = ("pretrained", "random", "surrogate")
ALLOWED = " | ".join(KEYWORDS) + " | the path of a .safetensors file or of a finished run's folder"
FILE_NAME = "model.safetensors"  # the model's file in a run's folder
RUN = "RUN"  # name of the commands' argument in error messages
_ALLOWED_RUN = f"the folder of a finished run, or its {FILE_NAME}"
_MAX_HEADER = 100 * 2**20  # the format's own limit


def weights_path(source: str | Path) -> Path:
    """Return `source` as a path or, if it is a run's folder, the path of the model's file in it."""
    path = Path(source).expanduser()
    return path / FILE_NAME if path.is_dir() else path


def tensor_shapes(source: str | Path) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the tensors in a safetensors file, from its header alone.

    Raises:
        UserError: of `model.weights`, if there is no safetensors file, or it has factors but no `ModelHeader`.
    """
    content = _read(source, "model.weights", ALLOWED)
    shapes = {key: tuple(entry["shape"]) for key, entry in content.items() if key != "__metadata__"}
    if METADATA_KEY not in content.get("__metadata__", {}) and any(key.endswith((".L", ".R")) for key in shapes):
        allowed = "a file of dense weights or a run's model; this one holds low-rank factors without a header"
        raise UserError("model.weights", source, allowed)
    return shapes


def saved_header(source: str | Path) -> ModelHeader | None:
    """Return the header of the run's model that `model.weights` names; None for keywords and other weights.

    Raises:
        UserError: the path is no safetensors file, or the header is of another version or incomplete.
    """
    if str(source) in KEYWORDS:
        return None
    content = _read(source, "model.weights", ALLOWED)
    if METADATA_KEY not in content.get("__metadata__", {}):
        return None
    return _parsed(content, source, "model.weights", ALLOWED)


def run_header(run: str | Path) -> ModelHeader:
    """Return the header of the model in a run's folder or model file. Raises UserError (of `RUN`) if there is none."""
    content = _read(run, RUN, _ALLOWED_RUN)
    if METADATA_KEY not in content.get("__metadata__", {}):
        raise UserError(RUN, run, f"{_ALLOWED_RUN}; this file has tensors, but not the header that a run writes")
    return _parsed(content, run, RUN, _ALLOWED_RUN)


def damaged(file: Path) -> bool:
    """Return whether `file` exists but is truncated or otherwise damaged, judged by its header and size."""
    if not file.is_file():
        return False
    try:
        content = _read(file, RUN, _ALLOWED_RUN)
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
        ends = [entry["data_offsets"][1] for key, entry in content.items() if key != "__metadata__"]
        return file.stat().st_size != 8 + length + max(ends, default=0)
    except (UserError, OSError, KeyError):
        return True


def _parsed(content: dict[str, Any], source: str | Path, option: str, allowed: str) -> ModelHeader:
    try:
        return ModelHeader.from_json(content["__metadata__"][METADATA_KEY])
    except ValueError as error:
        raise UserError(option, source, f"{allowed}; {error}") from None


def _read(source: str | Path, option: str, allowed: str) -> dict[str, Any]:
    """Return the JSON header of a safetensors file: `shape` and `data_offsets` per tensor, and `__metadata__`."""
    file = weights_path(source)
    if not file.is_file():
        missing = f"it has no {FILE_NAME}" if file != Path(source).expanduser() else "there is no such file"
        raise UserError(option, source, f"{allowed}; {missing}")
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MAX_HEADER:
                raise ValueError("no safetensors header")
            content = json.loads(stream.read(length))
        entries = [entry for key, entry in content.items() if key != "__metadata__"]
        if not isinstance(content.get("__metadata__", {}), dict):
            raise ValueError("metadata that is no mapping")
        if not all(isinstance(entry["shape"], list) for entry in entries):
            raise ValueError("a tensor without a shape")
        return content
    except OSError as error:
        raise UserError(option, source, f"{allowed}; this file cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, struct.error):
        raise UserError(option, source, f"{allowed}; this file is not in safetensors format") from None
