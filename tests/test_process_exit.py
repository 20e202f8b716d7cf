"""A process that ends without unloading its libraries ends like any other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wasi.__main__ import _COMMANDS

ROOT = Path(__file__).resolve().parents[1]
ENDS = {
    "return 1": 0,  # as of any script, whose last value is nobody's
    "sys.exit()": 0,
    "sys.exit(143)": 143,
    "sys.exit('one line')": 1,
    "raise ValueError('unforeseen')": 1,
    "sys.stdout = None": 0,  # as after `>&-`
}


def run(body, wrapped):
    call = "exit_after(main)" if wrapped else "main()"
    imports = "import atexit, sys, threading, time\nfrom concurrent.futures import ThreadPoolExecutor"
    imports += "\nfrom wasi.process_exit import exit_after"
    code = f"{imports}\n\ndef main():\n    {body}\n\n{call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr.strip().splitlines()[-1:]


@pytest.mark.parametrize("body", ENDS)
def test_status_and_words_are_those_of_python(body):
    assert run(body, True) == run(body, False)
    assert run(body, True)[0] == ENDS[body]


@pytest.mark.parametrize(
    ("body", "printed"),
    [
        ("print('in a buffer')", "in a buffer\n"),
        ("atexit.register(print, 'at the end')", "at the end\n"),
        ("threading.Thread(target=lambda: (time.sleep(0.2), print('waited for'))).start()", "waited for\n"),
        ("globals()['kept'] = ThreadPoolExecutor(); kept.submit(print, 'by a worker')", "by a worker\n"),
    ],
)
def test_what_is_under_way_is_finished(body, printed):
    assert run(body, True) == (0, printed, [])


def test_nothing_is_torn_down():
    body = "globals()['kept'] = type('Kept', (), {'__del__': lambda self: print('torn down')})()"
    assert run(body, wrapped=False) == (0, "torn down\n", [])
    assert run(body, wrapped=True) == (0, "", [])


@pytest.mark.parametrize(
    "program",
    [["train.py"], ["bench_device.py"], *(["-m", f"wasi.{name}"] for name in _COMMANDS), ["-m", "wasi", "status"]],
    ids=" ".join,
)
def test_ctrl_c_while_importing_is_quiet(program, tmp_path):
    (tmp_path / "hydra.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    words, environment = [sys.executable, *program], {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_later_is_python_s_own():
    code = "import signal\nfrom wasi.process_exit import *\nquiet_while_importing()\n"
    code += "exit_after(lambda: signal.raise_signal(signal.SIGINT))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "KeyboardInterrupt"
