"""Code shared by the commands `python -m wasi.COMMAND`. Importing it does not import torch."""

import sys
from collections.abc import Callable
from pathlib import Path

from wasi.errors import UserError
from wasi.models.weights_file import FILE_NAME as MODEL_NAME
from wasi.runs.command import command
from wasi.runs.ending import one_line, print_error
from wasi.runs.result import BENCH_FILE_NAME, FILE_NAME

_RESULTS = (FILE_NAME, BENCH_FILE_NAME)


def run_cli(main: Callable[[], int | None]) -> None:
    """Call `main` and end the process with the status that it returns (None is 0).

    After one line of error, a user's mistake exits with 2, and a file that cannot be read or written with 1. A
    signal exits with 128 + its number.
    """

    def with_status() -> None:
        try:
            sys.exit(main() or 0)
        except UserError as error:
            print_error(one_line(str(error)))
            sys.exit(2)
        except OSError as error:
            if error.filename is None:
                raise
            print_error(one_line(f"{error.filename}: {error.strerror}"))
            sys.exit(1)

    command(with_status)


def check_output_file(option: str, path: Path) -> None:
    """Raise `UserError` for an output path whose folder does not exist, or that a file must not replace.

    The latter are folders, devices, and a run's own files.
    """
    if (path.exists() and not path.is_file()) or not path.absolute().parent.is_dir():
        raise UserError(option, path, "a file in a folder that exists")
    of_a_run = path.name == MODEL_NAME and any((path.parent / name).exists() for name in _RESULTS)
    if of_a_run or path.name in _RESULTS:
        raise UserError(option, path, f"a name that no run's own file has ({', '.join((*_RESULTS, MODEL_NAME))})")
