"""How a run ends, and how that is reported: one line for the user, the traceback in the log."""

import logging
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wasi.errors import Diverged, Interrupted, UserError, one_line, type_and_text
from wasi.runs.log_file import FILE_ONLY, refused_log_file
from wasi.runs.out_of_memory import is_out_of_memory
from wasi.signals import arrived, uninterrupted

_ASCII = str.maketrans({"±": "+-", "×": "x", "≈": "~", "Δ": "-", "●": "*"})
_log_file = logging.getLogger(FILE_ONLY)


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Args:
        status: as in result.json.
        error: as in result.json, one line.
        exit_code: the exit status of a single run.
        signum: the signal that stopped the run.
        details: text for the log instead of `error`, the traceback of an unexpected exception.
    """

    status: str
    error: str | None = None
    exit_code: int = 0
    signum: int | None = None
    details: str | None = None


def ending_of(error: BaseException) -> Ending:
    """Return how a run ends that raised `error`, or in which a signal has arrived.

    >>> ending_of(UserError("train.epochs", 0, "a whole number from 1 up"))
    Ending(status='failed', error='train.epochs=0: allowed is a whole number from 1 up', exit_code=2, \
signum=None, details=None)
    """
    if isinstance(error, (Interrupted, KeyboardInterrupt)) or arrived():
        signum = getattr(error, "signum", arrived() or signal.SIGINT)
        name = signal.Signals(signum).name
        return Ending("interrupted", f"stopped by {name}", exit_code=128 + signum, signum=signum)
    if mistake := _cause(error, UserError):
        return Ending("failed", one_line(mistake), exit_code=2)
    if diverged := _cause(error, Diverged):
        return Ending("diverged", one_line(f"diverged: {diverged}"), exit_code=1)
    details = "".join(traceback.format_exception(error))
    kind = "out of memory: " if is_out_of_memory(error) else ""
    return Ending("failed", (kind + _described(error)).rstrip(": "), exit_code=1, details=details)


def end_job(
    ending: Ending, write: Callable[[Ending], None], close: Callable[[Ending], None] = lambda ending: None
) -> Ending:
    """Write and report how a job ended, uninterrupted, and return that; what cannot be written is a failure.

    Args:
        ending: how its body ended.
        write: writes an ending to the job's file.
        close: called last, with the ending that was reported.

    Raises:
        Interrupted: a signal stopped the job.
    """
    with uninterrupted():
        try:
            write(ending)
        except OSError as error:  # such as a full disk: older files stay, checkpoints too, and the next job runs
            ending = replace(ending_of(error), signum=ending.signum)
        tell(ending)
        close(ending)
    if ending.signum is not None:
        raise Interrupted(ending.signum)
    return ending


def tell(ending: Ending) -> None:
    """Report a failure as one line on stderr and in the log; an unexpected one's traceback goes to the log only.

    Without a log file (`hydra/job_logging=none`), the traceback goes to stderr.
    """
    if ending.error is None:
        return
    if path := log_path():
        _log_file.error("%s: %s", ending.status, ending.details or ending.error)
    if ending.details:
        print_error(f"{ending.error} (traceback in {path})" if path else f"{ending.error}\n{ending.details}")
    elif ending.signum is None:  # a signal ends the whole command, which prints it once
        print_error(ending.error)


def log_path() -> Path | None:
    """Return the file that tracebacks go to; None if there is none that can be written."""
    if refused_log_file():
        return None
    files = (handler for handler in _log_file.handlers if isinstance(handler, logging.FileHandler))
    return next((Path(file.baseFilename) for file in files), None)


def print_error(line: str) -> None:
    """Print a line to stderr, if that can still be written to: the terminal may be gone."""
    with suppress(OSError):
        print(f"error: {line}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return the text with characters that the terminal's encoding lacks replaced."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text


def _described(error: BaseException) -> str:
    """Return the type and text of an exception as one line.

    If it comes from a worker of a data loader, torch makes its whole traceback the text, of which the last line is
    returned.
    """
    text = str(error).strip()
    if "Original Traceback" in text:
        return text.splitlines()[-1].strip()
    return type_and_text(error)


def _cause(error: BaseException | None, kind: type) -> BaseException | None:
    """Return the first of `error` and its causes that is of `kind`, else None.

    Hydra's `instantiate` wraps what a constructor raises.
    """
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error
