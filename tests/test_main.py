"""`wasi COMMAND`, as a user calls it: the commands that there are, and what is told of one that is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from wasi.__main__ import _COMMANDS

ROOT = Path(__file__).resolve().parents[1]


def wasi(*words):
    return subprocess.run([sys.executable, "-m", "wasi", *words], cwd=ROOT, capture_output=True, text=True)


def test_help_has_one_line_for_every_module_that_is_a_command():
    help_ = wasi("--help")
    listed = [line.split()[0] for line in help_.stdout.splitlines() if line.startswith("  ")]
    assert help_.returncode == 0 and listed == list(_COMMANDS)
    package = ROOT / "wasi"
    runnable = {path.parent.name for path in package.glob("*/__main__.py")}
    runnable |= {path.stem for path in package.glob("[a-z]*.py") if "run_cli(main)" in path.read_text()}
    assert set(_COMMANDS) == runnable


@pytest.mark.parametrize("name", ["status", "results"])  # a module, and a package
def test_a_command_gets_its_arguments_and_its_status_is_passed_on(name):
    direct = subprocess.run(
        [sys.executable, "-m", f"wasi.{name}", "nowhere"], cwd=ROOT, capture_output=True, text=True
    )
    through = wasi(name, "nowhere")
    assert (through.returncode, through.stderr) == (direct.returncode, direct.stderr)
    assert through.returncode == 2 and "nowhere" in through.stderr


def test_an_unknown_command_is_told_in_one_line():
    done = wasi("statsu", "multirun/a")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: COMMAND=statsu: allowed is one of {', '.join(_COMMANDS)}\n"


def test_a_command_with_a_line_break_is_told_in_one_line():
    assert wasi("a\nb").stderr.startswith("error: COMMAND=a b: allowed is one of ")
