"""Around every command: exit status, one-line errors (Hydra's, too), and the command that continues after a signal."""

import argparse
import importlib
import io
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal import utils as hydra_utils
from hydra.errors import HydraException

from wasi.config.hardware import launched
from wasi.config.hydra_errors import quoted, rejected
from wasi.errors import Interrupted, UserError, one_line, type_and_text
from wasi.runs.ending import print_error
from wasi.runs.fail_fast import spelled_out
from wasi.runs.processes import without_a_folder
from wasi.signals import arrived, interruptible

_UNQUOTED = re.compile(r"[\w./:+@%-]+", re.ASCII)  # values that Hydra takes without quotes
_COMPLETION = re.compile(r"(install|uninstall|query)=(bash|fish|zsh)")
_REMOVED_CHECKS = re.compile(r"~hydra\.callbacks(\.sweep)?(=.*)?|\+{0,2}hydra\.callbacks(\.sweep)?=null")
_PROGRAMS = {"config": "train.py", "bench": "bench_device.py"}  # by the name of their main configuration
_continuing: list[str] = []  # commands; the last is printed when a signal ends this process


def command(main: Callable[[], object]) -> None:
    """Call a `@hydra.main` function; after SIGINT, SIGTERM or SIGHUP exit with 128 + its number, without a traceback.

    If Hydra cannot compose the configuration, the process exits with 2 after one line. If the reader of standard output
    is gone (`| head`), it exits with 1 and prints nothing. If it cannot be written to (a full disk), it exits with 1
    after one line.
    """
    try:
        sys.argv = without_a_folder(with_device_number(spelled_out(sys.argv)))
    except UserError as error:
        print_error(str(error))
        sys.exit(2)
    _prepare_output()
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback at every line
    try:
        with interruptible(), _one_line_for_rejected_options():
            try:
                main()
            finally:
                if not arrived():  # the terminal of a SIGHUP is gone
                    _flush()
    except Interrupted as stop:
        continuing = f"; continue with: {_continuing[-1]}" if _continuing else ""
        print_error(f"stopped by {signal.Signals(stop.signum).name}{continuing}")
        sys.exit(128 + stop.signum)
    except BrokenPipeError:
        _discard_output()
        sys.exit(1)


def _prepare_output() -> None:
    """Let output be printed on any terminal: `?` for characters that its encoding lacks, and nothing if it is closed.

    Python has no `sys.stderr` in a process that was started without one (`2>&-`), which libraries do not expect.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (open as long as the process)
        if isinstance(getattr(sys, name), io.TextIOWrapper):
            getattr(sys, name).reconfigure(errors="replace")


def run_cli(main: Callable[[], int | None]) -> None:
    """Call the `main` of `python -m wasi.COMMAND` and end the process with the status that it returns (None is 0).

    After one line of error, a user's mistake exits with 2, and a file that cannot be read or written with 1. A
    signal exits with 128 + its number.
    """

    def with_status() -> None:
        try:
            sys.exit(main() or 0)
        except UserError as error:
            print_error(one_line(error))
            sys.exit(2)
        except BrokenPipeError:
            raise
        except OSError as error:  # a full disk and a deleted working folder name no file
            text = f"{error.filename}: {error.strerror}" if error.filename else type_and_text(error)
            print_error(one_line(f"{text}{_without_a_working_folder()}"))
            sys.exit(1)

    command(with_status)


def _flush() -> None:
    try:
        print(end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        print_error(f"standard output cannot be written to: {error.strerror}")
        sys.exit(1)


def _discard_output() -> None:
    """Let standard output go nowhere, so that Python's own flush at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def with_device_number(words: Sequence[str]) -> list[str]:
    """Replace `device=cuda:1` by `device=cuda device.name=cuda:1`, as a choice of a group must be the name of a file.

    >>> with_device_number(["train.py", "device=cuda:1"])
    ['train.py', 'device=cuda', 'device.name=cuda:1']
    """
    found = []
    for word in words:
        named = re.fullmatch(r"device=(cuda:\d+)", word)
        found += ["device=cuda", f"device.name={named[1]}"] if named else [word]
    return found


@contextmanager
def _one_line_for_rejected_options() -> Iterator[None]:
    """Report errors of Hydra's composition in one line.

    Hydra prints several lines and offers no hook to change them, so its reporting function and its parser are wrapped.
    """
    hydra_main: Any = importlib.import_module("hydra.main")  # `hydra.main` itself is the decorator
    report, parser = hydra_utils.run_and_report, hydra_main.get_args_parser

    def checked_first(func: Any) -> Any:
        return report(lambda: _tell_rejected(func))

    hydra_utils.run_and_report, hydra_main.get_args_parser = checked_first, lambda: _lenient(parser())
    try:
        yield
    finally:
        hydra_utils.run_and_report, hydra_main.get_args_parser = report, parser


def _lenient(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Return Hydra's parser, changed to take `-m` among the overrides too and to report errors in one line."""

    def refuse(message: str) -> NoReturn:
        print_error(f"{message}; allowed is OPTION=VALUE, for example train.epochs=5, or what --hydra-help lists")
        sys.exit(2)

    def parse(*given: Any) -> argparse.Namespace:
        words = parser.parse_intermixed_args(*given)
        if (mistake := _mistake(words)) is not None:
            print_error(mistake)
            sys.exit(2)
        return words

    vars(parser).update(error=refuse, parse_args=parse)
    return parser


def _mistake(words: argparse.Namespace) -> str | None:
    """Return in one line what Hydra would answer with a traceback or not heed; None if there is nothing of that kind.

    Args:
        words: the command line as Hydra's parser has read it.
    """
    asked = [f"--{name}" for name in ("run", "multirun", "cfg", "info", "shell_completion") if vars(words)[name]]
    if len(asked) > 1:
        return f"{' '.join(asked)}: allowed is one of them at a time"
    overrides = " ".join(words.overrides)
    if words.hydra_help and overrides:  # Hydra reads its help before overrides, and fails on them
        return f"--hydra-help {overrides}: allowed is --hydra-help alone"
    if words.resolve and words.cfg is None and not words.help:
        return "--resolve: allowed is beside --cfg or --help"
    if words.shell_completion and not _COMPLETION.fullmatch(overrides):
        return f"--shell_completion {overrides}: allowed is one of install, uninstall and query, as install=bash"
    if words.shell_completion and overrides.startswith("query=") and "COMP_LINE" not in os.environ:
        return f"--shell_completion {overrides}: allowed is a call by the shell, which sets COMP_LINE"
    rerun = words.experimental_rerun
    if rerun is not None and not _is_pickled(Path(rerun)):
        return f"--experimental-rerun={rerun}: allowed is the file config.pickle of an earlier run"
    if removed := next(filter(_REMOVED_CHECKS.fullmatch, words.overrides), None):  # before a sweep begins
        return f"{removed}: allowed is the shipped hydra.callbacks.sweep, which checks every command"
    owner, running = _PROGRAMS.get((words.config_name or "").removesuffix(".yaml")), Path(sys.argv[0]).name
    if owner not in (None, running) and running in _PROGRAMS.values():
        return f"--config-name={words.config_name}: allowed is that configuration with {owner} only"
    return None


def _is_pickled(file: Path) -> bool:
    """Return whether a file begins and ends as pickles do, of the protocols from Python 3 on."""
    try:
        content = file.read_bytes()
    except OSError:
        return False
    return content.startswith(b"\x80") and content.endswith(b".")


def _tell_rejected(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except (HydraException, ValueError, AssertionError, LookupError, TypeError, AttributeError) as error:
        mistake = rejected(error, sys.argv[1:])
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or (mistake is None and not isinstance(error, HydraException)):
            raise
        print_error(one_line(f"{error} {error.__cause__ or ''}") if mistake is None else str(mistake))
        sys.exit(2)
    except OSError as error:  # from files that Hydra writes: a full disk, a folder without write permission
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print_error(one_line(f"{type(error).__name__}: {error}{_without_a_working_folder()}"))
        sys.exit(1)


def _without_a_working_folder() -> str:
    try:
        os.getcwd()
    except OSError:
        return " (the working folder has been deleted)"
    return ""


def continue_with(options: Mapping[str, object]) -> str:
    """Return this process's command line with these options in it, quoted for a shell and, where needed, for Hydra.

    It continues the work begun, and is printed when a signal ends the process.
    """
    texts = {option: str(value) for option, value in options.items()}
    given = [f"{option}={text if _UNQUOTED.fullmatch(text) else quoted(text)}" for option, text in texts.items()]
    words = [word for word in _own_words() if word.partition("=")[0] not in options]
    overrides = [index for index, word in enumerate(words) if "=" in word and not word.startswith("-")]
    index = overrides[-1] + 1 if overrides else len(words)  # argparse takes positional arguments only in one block
    _continuing.append(shlex.join([*words[:index], *given, *words[index:]]))
    return _continuing[-1]


def _own_words() -> list[str]:
    """Return the command line of this process, preceded by `torchrun` if that started it."""
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    if launched().world_size == 1 or processes is None:
        return list(sys.orig_argv)
    return ["torchrun", f"--nproc_per_node={processes}", *sys.argv]
