"""Every way a run can end has a status, an exit code and at most one line on stderr."""

import logging
import signal
import subprocess
import sys

import pytest
from hydra.errors import InstantiationException

from wasi.errors import Diverged, Interrupted, UserError
from wasi.runs.ending import ending_of, tell

MISTAKE = UserError("method.scope", "head", "mlp, attention or all")


@pytest.mark.parametrize(
    ("error", "status", "exit_code", "signum"),
    [
        (MISTAKE, "failed", 2, None),
        (Diverged("training loss is nan"), "diverged", 1, None),
        (RuntimeError("boom"), "failed", 1, None),
        (SystemExit(0), "failed", 1, None),
        (MemoryError(), "failed", 1, None),
        (Interrupted(signal.SIGTERM), "interrupted", 143, signal.SIGTERM),
        (Interrupted(signal.SIGINT), "interrupted", 130, signal.SIGINT),
        (KeyboardInterrupt(), "interrupted", 130, signal.SIGINT),
    ],
)
def test_status_and_exit_code(error, status, exit_code, signum):
    ending = ending_of(error)
    assert (ending.status, ending.exit_code, ending.signum) == (status, exit_code, signum)
    assert ending.error


def test_a_mistake_inside_instantiate_is_still_the_users():
    try:
        try:
            raise MISTAKE
        except UserError as error:
            raise InstantiationException("Error in call to target") from error
    except InstantiationException as wrapped:
        assert ending_of(wrapped).error == str(MISTAKE) and ending_of(wrapped).exit_code == 2


@pytest.mark.parametrize("error", [MISTAKE, Diverged("x"), ValueError("several\nlines\nof it")])
def test_one_line_on_stderr_and_the_traceback_in_the_log_whatever_its_name(error, capsys, tmp_path, log_file):
    tell(ending_of(error))
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert (str(log_file) in err) == ("Error" in log_file.read_text()) == isinstance(error, ValueError)


@pytest.fixture
def log_file(tmp_path):
    logger, handler = logging.getLogger("wasi.file_only"), logging.FileHandler(tmp_path / "another.log")
    logger.addHandler(handler)
    yield tmp_path / "another.log"
    logger.removeHandler(handler)
    handler.close()


def test_without_a_log_file_the_traceback_is_on_stderr(capsys):
    try:
        raise ValueError("here")
    except ValueError as error:
        tell(ending_of(error))
    err = capsys.readouterr().err
    assert err.startswith("error: ValueError: here\n") and "test_ending.py" in err and "traceback in" not in err


def test_an_error_in_a_data_loader_s_worker_is_the_worker_s_own():
    text = "Caught OSError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File x\n"
    ending = ending_of(OSError(f"{text}FileNotFoundError: [Errno 2] No such file: 'a.png'\n"))
    assert ending.error == "FileNotFoundError: [Errno 2] No such file: 'a.png'" and "File x" in ending.details


def test_without_any_log_handler_nothing_is_said_twice():
    program = "from wasi.runs.ending import ending_of, tell\ntry: 1 / 0\nexcept Exception as e: tell(ending_of(e))"
    err = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
    assert err.count("Traceback") == 1 and err.startswith("error: ZeroDivisionError")
