"""The command that continues, and exit codes after a signal."""

import shlex
import signal
import subprocess
import sys

import pytest

from wasi.errors import Interrupted
from wasi.runs.command import command, continue_with


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["python", "train.py", "-m"], ["python", "train.py", "-m", "sweep=s"]),
        (["python", "train.py", "-m", "a=1,2"], ["python", "train.py", "-m", "a=1,2", "sweep=s"]),
        (["python", "train.py", "a=1,2", "-m"], ["python", "train.py", "a=1,2", "sweep=s", "-m"]),
        (["python", "train.py", "sweep=old", "a='x y'", "-m"], ["python", "train.py", "a='x y'", "sweep=s", "-m"]),
        (["python", "train.py", "-m", "--config-dir=c", "a=[1,2]"], [
            "python", "train.py", "-m", "--config-dir=c", "a=[1,2]", "sweep=s",
        ]),
    ],
)  # fmt: skip
def test_the_same_words_with_the_sweep_named(words, expected, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", words)
    assert shlex.split(continue_with("sweep", "s")) == expected


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command(signum, code, capsys):
    def main():
        signal.raise_signal(signum)

    with pytest.raises(SystemExit) as end:
        command(main)
    assert end.value.code == code
    err = capsys.readouterr().err
    assert err.startswith(f"error: stopped by {signal.Signals(signum).name}") and err.count("\n") == 1


def test_a_reader_who_has_had_enough_is_no_error():
    program = "import wasi.runs.command as c; c.command(lambda: print('line\\n' * 100_000))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1


def _raised_in_set_name():
    class Descriptor:
        def __set_name__(self, owner, name):
            signal.raise_signal(signal.SIGTERM)

    type("Owner", (), {"attribute": Descriptor()})


def _caught_by_a_library():
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException:
        raise ValueError("something else") from None


def _made_an_exit_status():
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException:
        sys.exit(1)


@pytest.mark.parametrize("main", [_raised_in_set_name, _caught_by_a_library, _made_an_exit_status])
def test_a_signal_whose_exception_became_another_still_ends_the_command_as_a_signal(main, capsys):
    with pytest.raises(SystemExit) as end:
        command(main)
    assert end.value.code == 143 and capsys.readouterr().err.startswith("error: stopped by SIGTERM")
    with pytest.raises(ValueError, match="of the next command"):
        command(_of_the_next_command)


def _of_the_next_command():
    raise ValueError("of the next command")


def test_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        command(_stopped)
    assert signal.getsignal(signal.SIGTERM) is before


def _stopped():
    raise Interrupted(signal.SIGTERM)
