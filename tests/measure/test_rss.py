"""RSS peaks of known allocations in a fresh child, by the kernel's mark and by sampling."""

import json
import os
import subprocess
import sys

import psutil
import pytest

from wasi.measure import rss

SIZE = 96  # MiB

CHILD = """
import json, sys, time
import numpy as np
from wasi.measure import rss

def hold_and_release():
    block = np.ones(int(sys.argv[2]) * 1024**2, dtype=np.uint8)
    time.sleep(0.05)
    del block

if sys.argv[1] == "sampled":
    rss._reset_high_water = lambda: False
before = rss.current_rss_mib()
peak, after = rss.peak_rss_mib(hold_and_release), rss.peak_rss_mib(lambda: None)
print(json.dumps([peak - before, after - before]))
"""


def run(program: str, way: str, size: int) -> str:
    """What the program prints in a process of its own."""
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, "-c", program, way, str(size)],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("way", ["high water", "sampled"])
def test_peak_sees_what_was_released_and_forgets_it(way):
    peak, after = json.loads(run(CHILD, way, SIZE))
    assert SIZE * 0.98 < peak < SIZE * 1.1
    assert after < SIZE / 2


SINCE_THE_BEGINNING = """
import json, sys
import numpy as np

block = np.ones(int(sys.argv[2]) * 1024**2, dtype=np.uint8)  # as an import might, before anything measures
del block
from wasi.measure import rss

def without_proc():
    raise OSError

if sys.argv[1] == "getrusage":
    rss._high_water_mib = without_proc
print(json.dumps([rss.process_peak_mib(), rss.current_rss_mib()]))
"""


@pytest.mark.parametrize("way", ["high water", "getrusage"])
def test_the_processs_peak_is_that_since_it_began(way):
    peak, now = json.loads(run(SINCE_THE_BEGINNING, way, SIZE))
    # Linux's ru_maxrss starts from what the parent held when it forked.
    highest = SIZE + now if way == "high water" else max(SIZE + now, rss.process_peak_mib())
    assert now < SIZE < peak < 1.1 * highest


def test_child_environment_fixes_threads():
    assert rss.child_environment(4) == {"OMP_NUM_THREADS": "4"} and rss.child_environment(None) == {}


def test_limit_tells_wanted_and_allowed():
    assert rss.over_limit(900, None) is None and rss.over_limit(900, 1000) is None
    assert rss.over_limit(1234.4, 1000) == (
        "device.memory_limit_mib=1000: the process wanted 1234 MiB, imports included"
    )


def test_available_memory_is_a_part_of_the_machines():
    assert 0 < rss.available_mib() <= psutil.virtual_memory().total / rss.MIB
