"""The command line around Hydra: exit status after a signal, and the command that continues where it stopped."""

import shlex
import signal
import sys
from collections.abc import Callable

from wasi.errors import Interrupted
from wasi.runs.ending import print_error
from wasi.signals import interruptible

_continuing: list[str] = []  # the last of them is told when a signal ends this process


def command(main: Callable[[], object]) -> None:
    """Call a `@hydra.main` function; SIGINT and SIGTERM end the process with 130 and 143, without a traceback."""
    try:
        with interruptible():
            main()
    except Interrupted as stop:
        continuing = f"; continue with: {_continuing[-1]}" if _continuing else ""
        print_error(f"stopped by {signal.Signals(stop.signum).name}{continuing}")
        sys.exit(128 + stop.signum)


def continue_with(option: str, value: object) -> str:
    """This process's own command line, for a shell, with `option=value` in it: what continues the work begun."""
    words = [word for word in sys.orig_argv if not word.startswith(f"{option}=")]
    overrides = [place for place, word in enumerate(words) if "=" in word and not word.startswith("-")]
    place = overrides[-1] + 1 if overrides else len(words)  # argparse wants all overrides side by side
    _continuing.append(shlex.join([*words[:place], f"{option}={value}", *words[place:]]))
    return _continuing[-1]
