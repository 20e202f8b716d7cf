"""Check a safetensors file and read its header, without torch."""

import os
from pathlib import Path
from typing import Any

from wasi import file_names
from wasi.errors import UserError
from wasi.models.header import METADATA_KEY, ModelHeader
from wasi.paths import expanded

KEYWORDS = ("pretrained", "random", "surrogate")
ALLOWED = " | ".join(KEYWORDS) + " | the path of a .safetensors file or of a finished run's folder"
RUN = "RUN"  # name of the commands' argument in error messages
_ALLOWED_RUN = f"the folder of a finished run, or its {file_names.MODEL}"


def weights_path(source: str | Path) -> Path:
    """Return `source` as a path or, if it is a run's folder, the path of the model's file in it."""
    path = expanded(source)
    is_folder = os.path.isdir(path)  # `Path.is_dir` raises where a folder above is closed
    return path / file_names.MODEL if is_folder else path


def tensor_shapes(source: str | Path) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the tensors in a safetensors file, from its header alone.

    Raises:
        UserError: of `model.weights`, if there is no safetensors file, or it has factors but no `ModelHeader`.
    """
    file = _opened(source, "model.weights", ALLOWED)
    names = file.keys()
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    if METADATA_KEY not in _metadata(file) and any(key.endswith((".L", ".R")) for key in shapes):
        allowed = "a file of dense weights or a run's model; this one holds low-rank factors without a header"
        raise UserError("model.weights", source, allowed)
    return shapes


def saved_header(source: str | Path) -> ModelHeader | None:
    """Return the header of the run's model that `model.weights` names; None for keywords and other weights.

    Raises:
        UserError: the path is no safetensors file, or the header is of another version or incomplete.
    """
    return None if str(source) in KEYWORDS else _header(source, "model.weights", ALLOWED)


def run_header(run: str | Path) -> ModelHeader:
    """Return the header of the model in a run's folder or model file. Raises UserError (of `RUN`) if there is none."""
    header = _header(run, RUN, _ALLOWED_RUN)
    if header is None:
        raise UserError(RUN, run, f"{_ALLOWED_RUN}; this file has tensors, but not the header that a run writes")
    return header


def damaged(file: Path) -> bool:
    """Return whether `file` exists but is truncated or otherwise damaged, judged by its header and size."""
    if not file.is_file():
        return False
    try:
        _opened(file, RUN, _ALLOWED_RUN)
    except UserError:
        return True
    return False


def _header(source: str | Path, option: str, allowed: str) -> ModelHeader | None:
    text = _metadata(_opened(source, option, allowed)).get(METADATA_KEY)
    try:
        return None if text is None else ModelHeader.from_json(text)
    except ValueError as error:
        raise UserError(option, source, f"{allowed}; {error}") from None


def _opened(source: str | Path, option: str, allowed: str) -> Any:
    """Open a safetensors file, of which only the header is read until a tensor is asked for."""
    from safetensors import SafetensorError, safe_open  # here, as every command imports this module

    file = weights_path(source)
    if not os.path.isfile(file):
        missing = f"it has no {file_names.MODEL}" if file != expanded(source) else "there is no such file"
        raise UserError(option, source, f"{allowed}; {_refusal(file) or missing}")
    try:
        return safe_open(file, framework="np")  # checks the header, and the file's size against it
    except OSError as error:
        raise UserError(option, source, f"{allowed}; this file cannot be read ({error.strerror or error})") from None
    except SafetensorError as error:
        raise UserError(option, source, f"{allowed}; this file is not in safetensors format ({error})") from None


def _refusal(path: Path) -> str | None:
    """Return why the system does not let a path be looked at; None if it does, or if nothing is there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null character in the path
        return None
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return None


def _metadata(file: Any) -> dict[str, str]:
    return file.metadata() or {}
