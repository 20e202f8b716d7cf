"""What is told of processes in each other's way."""

import os
import subprocess
import sys
import time

import pytest

from wasi.measure import contention as module
from wasi.measure.contention import clocks, contention, crowding_warning, share, spent

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
    before = clocks()
    time.sleep(0.05)
    ran, waited = spent(before, clocks())
    assert ran + waited < 40e6


@pytest.mark.parametrize(("threads", "waited", "lines"), [(2, 50, 1), (2, 10, 0), (1, 50, 0)])
def test_a_run_of_several_threads_on_a_busy_machine_is_told_once(monkeypatch, caplog, threads, waited, lines):
    ticks = iter(range(10))
    monkeypatch.setattr(module, "clocks", lambda: {"1": ((tick := next(ticks)) * (100 - waited), tick * waited)})
    look = crowding_warning(threads)
    for epoch in range(4):
        look(epoch, 10 * epoch)
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == lines
    assert all("waited 50 % of their time" in line and "num_threads=1" in line for line in found)
