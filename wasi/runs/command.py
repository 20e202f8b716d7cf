"""The command line around Hydra: exit status after a signal, and the command that resumes a sweep."""

import shlex
import signal
import sys
from collections.abc import Callable

from wasi.errors import Interrupted
from wasi.runs.ending import print_error
from wasi.signals import interruptible


def command(main: Callable[[], object]) -> None:
    """Call a `@hydra.main` function; SIGINT and SIGTERM end the process with 130 and 143, without a traceback."""
    try:
        with interruptible():
            main()
    except Interrupted as stop:
        print_error(f"stopped by {signal.Signals(stop.signum).name}; the same command continues")
        sys.exit(128 + stop.signum)


def resume_command(sweep: str) -> str:
    """This process's own command line, for a shell, with the sweep named."""
    kept = [argument for argument in sys.orig_argv if not argument.startswith("sweep=")]
    return shlex.join([*kept, f"sweep={sweep}"])
