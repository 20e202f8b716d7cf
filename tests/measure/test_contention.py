"""What is told of processes in each other's way."""

import os
import subprocess
import sys
import time

import pytest

from wasi.measure.contention import clocks, contention, share, spent

pytestmark = pytest.mark.skipif(not clocks(), reason="the system counts no waiting")


def test_threads_that_began_since_count_from_their_start():
    assert spent({"1": (100, 10), "gone": (5, 5)}, {"1": (400, 60), "2": (30, 40)}) == (330, 90)
    assert share(300, 100) == 0.25 and share(0, 0) is None


def _work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_two_processes_on_one_processor_wait_half_of_their_time():
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    code = "import time\nend = time.process_time() + 9\nwhile time.process_time() < end: pass"
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.3)
        before = clocks()
        _work(0.3)
        assert contention(before)["cpu_wait_share"] > 0.3
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, mine)


def test_one_that_sleeps_does_not_wait():
    before = clocks("self")
    time.sleep(0.05)
    ran, waited = spent(before, clocks())
    assert ran + waited < 40e6
