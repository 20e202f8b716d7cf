"""What the commands below `python -m wasi` share. No torch at import."""

import sys
from collections.abc import Callable
from pathlib import Path

from wasi.errors import UserError
from wasi.runs.command import command
from wasi.runs.ending import one_line, print_error


def run_cli(main: Callable[[], int | None]) -> None:
    """Call `main` and end the process with the status that it returns (None is 0).

    A user's mistake, or a file that cannot be read or written, is told in one line (status 2 and 1); SIGINT and
    SIGTERM end the process with 130 and 143.
    """

    def told() -> None:
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

    command(told)


def check_output_file(option: str, path: Path) -> None:
    """Raises UserError for a folder, and for a file in a folder that does not exist."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(option, path, "a file in a folder that exists")
