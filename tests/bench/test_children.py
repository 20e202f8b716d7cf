"""The pipe between parent and measuring process, and every way in which a process can end."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from wasi.bench.children import Child, ChildFailed

FAKE = (sys.executable, str(Path(__file__).with_name("fake_child.py")))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def start(tmp_path):
    started = []

    def child(role="", environment=None, program=FAKE):
        started.append(Child(role, tmp_path / "log", environment or {}, program))
        return started[-1]

    yield child
    for one in started:
        one.close()


def test_answers_are_the_protocols_alone(start, tmp_path):
    child = start()
    assert child.ask("echo", a=[1.5, None], b="ä\n") == {"a": [1.5, None], "b": "ä\n"}
    assert child.ask("echo") == {}
    child.close()
    assert (
        "this is not the protocol" in (tmp_path / "log").read_text()
        and "nor is this" in (tmp_path / "log").read_text()
    )


def test_the_environment_is_added_to_ours(start, monkeypatch):
    monkeypatch.setenv("OURS", "1")
    child = start(environment={"MALLOC_MMAP_THRESHOLD_": "65536"})
    assert child.ask("environment", name="MALLOC_MMAP_THRESHOLD_") == "65536"
    assert child.ask("environment", name="OURS") == "1"
    assert "MALLOC_MMAP_THRESHOLD_" not in os.environ


@pytest.mark.parametrize(
    ("do", "status", "line"),
    [
        ("mistake", "failed", "model.weights=x: allowed is y"),
        ("diverge", "diverged", "diverged: training loss is nan"),
        ("fail", "failed", "RuntimeError: two lines"),
        ("no_such_request", "failed", "AttributeError: 'Fake' object has no attribute 'no_such_request'"),
    ],
)
def test_what_it_raises_is_told_in_one_line(start, do, status, line):
    with pytest.raises(ChildFailed) as caught:
        start("baseline").ask(do)
    assert caught.value.status == status and str(caught.value) == f"baseline: {line}"


def test_how_it_died(start):
    with pytest.raises(ChildFailed, match="^the measuring process was killed by SIGKILL, possibly out of memory$"):
        start().ask("killed")
    with pytest.raises(ChildFailed, match="ended with status 3: could not go on$"):
        start().ask("exits")
    with pytest.raises(ChildFailed, match="ended with status 1: ModuleNotFoundError: No module named 'nowhere'"):
        start(program=(sys.executable, "-c", "import nowhere")).ask("echo")


def test_killed_from_outside_between_two_requests(start):
    child = start()
    child.ask("echo")
    os.kill(child.pid, signal.SIGTERM)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ChildFailed, match="killed by SIGTERM$"):
        child.ask("echo")


def test_closed_in_the_middle_of_a_request(start):
    def interrupt(*_):
        raise InterruptedError

    child = start()
    child.ask("echo")
    before = signal.signal(signal.SIGALRM, interrupt)
    begin = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(InterruptedError):
            child.ask("sleeps", seconds=60)
    finally:
        signal.signal(signal.SIGALRM, before)
    child.close()
    child.close()
    assert time.monotonic() - begin < 30
    assert not psutil.pid_exists(child.pid)


def test_the_parent_waits_without_spinning(start):
    child = start()
    child.ask("echo")
    before = time.process_time()
    child.ask("sleeps", seconds=0.5)
    assert time.process_time() - before < 0.1


@pytest.mark.parametrize("busy", [True, False])
def test_it_dies_with_its_parent(tmp_path, busy):
    program = f"""
        import sys, threading, time
        from pathlib import Path
        from wasi.bench.children import Child
        child = Child("", Path({str(tmp_path / "log")!r}), {{}}, {FAKE!r})
        child.ask("echo")
        if {busy}:
            threading.Thread(target=lambda: child.ask("sleeps", seconds=60)).start()
            time.sleep(0.2)
        print(child.pid, flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert psutil.wait_procs([child], timeout=10)[1] == []
