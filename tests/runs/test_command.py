"""The command that continues, and exit codes after a signal."""

import os
import shlex
import signal
import subprocess
import sys

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from wasi.errors import Interrupted
from wasi.runs.command import command, continue_with, run_cli


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
    assert shlex.split(continue_with({"sweep": "s"})) == expected


def test_several_options_replace_those_that_were_given(monkeypatch):
    words = ["python", "train.py", "hydra.sweep.dir=${now:%H}", "sweep=old", "a=1,2", "-m"]
    monkeypatch.setattr(sys, "orig_argv", words)
    expected = ["python", "train.py", "a=1,2", "hydra.sweep.dir=m/12", "sweep=s", "-m"]
    assert shlex.split(continue_with({"hydra.sweep.dir": "m/12", "sweep": "s"})) == expected


@pytest.mark.parametrize(
    "folder", ["/a/outputs/1", "/a b (x, y)/é=1", 'say "so"', "[1]", "{a}", "a b\\", 'a\\b \\"c\\\\"']
)
def test_the_command_to_continue_with_is_read_by_hydra_as_it_was_meant(monkeypatch, folder):
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "seed=1"])
    word = shlex.split(continue_with({"hydra.run.dir": folder}))[-1]
    (override,) = OverridesParser.create().parse_overrides([word])
    value = override.value()
    assert (value.text if isinstance(value, QuotedString) else value) == folder


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "3"], "unrecognized arguments: --epochs"),  # argparse names the 3 or not, by Python's version
        (["--epochs=3"], "unrecognized arguments: --epochs=3; allowed is OPTION=VALUE, for example train.epochs=5"),
        (["-m", "--cfg", "job"], "--multirun --cfg: allowed is one of them at a time"),
        (["--hydra-help"], "--hydra-help seed=1: allowed is --hydra-help alone"),
        (["--experimental-rerun=foo"], "--experimental-rerun=foo: allowed is the file config.pickle of an earlier run"),
        ([f"--experimental-rerun={__file__}"], f"--experimental-rerun={__file__}: allowed is the file config.pickle"),
        (["--resolve"], "--resolve: allowed is beside --cfg or --help"),
        (["-m", "--resolve"], "--resolve: allowed is beside --cfg or --help"),
        (["--config-name", "bench"], "--config-name=bench: allowed is that configuration with bench_device.py"),
        (["-cn=bench.yaml"], "--config-name=bench.yaml: allowed is that configuration with bench_device.py"),
        (["-sc"], "--shell_completion seed=1: allowed is one of install, uninstall and query, as install=bash"),
        (["--cfg", "jobs"], "argument --cfg/-c: invalid choice: 'jobs'"),
        (["--config-dir"], "argument --config-dir/-cd: expected one argument"),
        (["-m", "hydra.callbacks=null"], "hydra.callbacks=null: allowed is the shipped hydra.callbacks.sweep, which"),
        (["-m", "hydra.callbacks.sweep=null"], "hydra.callbacks.sweep=null: allowed is the shipped hydra.callbacks"),
        (["-m", "~hydra.callbacks"], "~hydra.callbacks: allowed is the shipped hydra.callbacks.sweep, which checks"),
    ],
)
def test_words_that_hydras_parser_does_not_take_are_told_in_one_line(words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=1", *words])
    with pytest.raises(SystemExit) as end:
        command(_composing(lambda cfg: pytest.fail("it ran")))
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.startswith(f"error: {message}") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("install=nope", "install=nope: allowed is one of install, uninstall and query, as install=bash"),
        ("query=bash", "query=bash: allowed is a call by the shell, which sets COMP_LINE"),
    ],
)
def test_completion_that_hydra_has_a_traceback_for_is_one_line(word, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "-sc", word])
    monkeypatch.delenv("COMP_LINE", raising=False)
    with pytest.raises(SystemExit) as end:
        command(_composing(lambda cfg: pytest.fail("it ran")))
    assert (end.value.code, capsys.readouterr().err) == (2, f"error: --shell_completion {message}\n")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE=abc: allowed is a whole number from 1 up (torchrun sets it), or not set"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE=: allowed is a whole number from 1 up (torchrun sets it), or not set"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2: allowed is a whole number from 0 up, below WORLD_SIZE=2, or not "),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2: allowed is 1, or not set, without RANK and MASTER_ADDR and MASTER_PORT: "),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "1"}, "WORLD_SIZE=2: allowed is 1, or not set, without MAST"),
        ({"LOCAL_WORLD_SIZE": "abc"}, "LOCAL_WORLD_SIZE=abc: allowed is a whole number from 1 up (torchrun sets it)"),
        ({"LOCAL_RANK": "1.5"}, "LOCAL_RANK=1.5: allowed is a whole number from 0 up (torchrun sets it), or not set"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "http"},
            "MASTER_PORT=http: allowed is a whole number from 0 up (torchrun sets it), or not set",
        ),
        ({"RANK": "-1"}, "RANK=-1: allowed is a whole number from 0 up, below WORLD_SIZE=1, or not set"),
    ],
)
def test_what_torchrun_would_not_set_is_one_line(given, message, monkeypatch, capsys):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        command(lambda: pytest.fail("it ran"))
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.startswith(f"error: {message}") and err.count("\n") == 1


def test_an_output_that_is_full_is_one_line():
    code = "from wasi.runs.command import command\ncommand(lambda: print('a line'))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    output = "error: standard output cannot be written to: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, output)


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_command_runs_with_an_output_that_is_closed(closed):
    told = "print('a', file=sys.stderr) or print('b')"
    code = f"import sys; from wasi.runs.command import command; command(lambda: {told})"
    words = ["sh", "-c", f'"$0" -c "$1" {closed}>&-', sys.executable, code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, *(("", "a\n") if closed == "1" else ("b\n", "")))


def test_characters_that_the_terminal_lacks_are_replaced():
    code = "from wasi.runs.command import command; command(lambda: print('j\u00e9'))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "j?\n", "")


def test_the_multirun_flag_may_stand_among_the_overrides(monkeypatch, tmp_path):
    folder, jobs = f"hydra.sweep.dir={tmp_path}", []
    monkeypatch.setattr(sys, "argv", ["train.py", "+a=1,2", "-m", folder, "+b=3"])
    command(_composing(jobs.append))
    assert jobs == [{"a": 1, "b": 3}, {"a": 2, "b": 3}]


def _composing(task):
    return hydra.main(version_base="1.3", config_path=None)(task)


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


def test_a_command_in_a_deleted_working_folder_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(SystemExit) as end:
        run_cli(os.getcwd)
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("error: FileNotFoundError: [Errno 2] No such file or directory (the ")
