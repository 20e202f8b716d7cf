"""What the commands below `python -m wasi` share. No torch at import."""

import sys
from collections.abc import Callable

from wasi.errors import UserError
from wasi.runs.command import command
from wasi.runs.ending import one_line, print_error


def run_cli(main: Callable[[], int | None]) -> None:
    """Call `main` and end the process with the status that it returns (None is 0), or with 2 after a UserError.

    A user's mistake is told in one line; SIGINT and SIGTERM end the process with 130 and 143.
    """

    def told() -> None:
        try:
            sys.exit(main() or 0)
        except UserError as error:
            print_error(one_line(str(error)))
            sys.exit(2)

    command(told)
