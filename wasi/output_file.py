"""Checks the file that a command is told to write. Importing this module does not import torch."""

import re
from pathlib import Path

from wasi.atomic import check_replacing
from wasi.errors import UserError
from wasi.models.weights_file import FILE_NAME as MODEL_NAME
from wasi.runs.result import BENCH_FILE_NAME, FILE_NAME
from wasi.training import file_names

_RESULTS = (FILE_NAME, BENCH_FILE_NAME)
_RECORDS = (*_RESULTS, "sweep.json")  # one of them is in every folder of a run or a sweep
# As literals where the module that writes the file would import torch or Hydra's sweepers.
_WRITTEN = (
    *_RECORDS,
    *(MODEL_NAME, "perplexity.json", "tuning.json", "fail_fast.json"),
    *(file_names.CHECKPOINT, file_names.CHECKPOINT_BEFORE, file_names.BEST, file_names.MONITOR),
    *("bench.csv", "fit.csv", "fit.json", "report.csv", "report_groups.csv", "report.html", "report.md"),
)
_LOG_LOCK_OR_FIGURE = re.compile(r".*\.(log|png|svg)|\.lock")


def check_output_file(option: str, path: Path) -> None:
    """Raise `UserError` for an output path that cannot be written, or that a file must not replace.

    The latter are folders, devices, and files that a run or a sweep has written itself.
    """
    if (path.exists() and not path.is_file()) or not path.absolute().parent.is_dir():
        raise UserError(option, path, "a file in a folder that exists")
    if path.name in _RESULTS or _is_of_a_run(path.resolve()):
        raise UserError(option, path, f"a name that no run's own file has, unlike {path.name}")
    try:
        check_replacing(path)
    except OSError as error:
        raise UserError(option, path, f"a file that can be written ({error.strerror})") from None


def _is_of_a_run(path: Path) -> bool:
    """Return whether the path is in a run's or a sweep's folder, by a name that one of its own files has."""
    if path.parent.name == ".hydra":
        return True
    own_name = path.name in _WRITTEN or _LOG_LOCK_OR_FIGURE.fullmatch(path.name) is not None
    return own_name and any((path.parent / name).exists() for name in _RECORDS)
