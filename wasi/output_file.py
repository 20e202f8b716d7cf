"""Checks the file that a command is told to write. Importing this module does not import torch."""

from pathlib import Path

from wasi import file_names
from wasi.atomic import check_replacing
from wasi.errors import UserError

_RECORDS = (*file_names.RESULTS, file_names.SWEEP, file_names.MULTIRUN)  # one is in every folder of a run or a sweep


def check_output_file(option: str, path: Path) -> None:
    """Raise `UserError` for an output path that cannot be written, or that a file must not replace.

    The latter are folders, devices, and files that a run or a sweep has written itself.
    """
    if (path.exists() and not path.is_file()) or not path.absolute().parent.is_dir():
        raise UserError(option, path, "a file in a folder that exists")
    if path.name in file_names.RESULTS or _is_of_a_run(path.resolve()):
        raise UserError(option, path, f"a name that no run's own file has, unlike {path.name}")
    try:
        check_replacing(path)
    except OSError as error:
        raise UserError(option, path, f"a file that can be written ({error.strerror})") from None


def _is_of_a_run(path: Path) -> bool:
    """Return whether the path is in a run's or a sweep's folder, by a name that one of its own files has."""
    if path.parent.name == ".hydra":
        return True
    return file_names.is_written(path.name) and any((path.parent / name).exists() for name in _RECORDS)
