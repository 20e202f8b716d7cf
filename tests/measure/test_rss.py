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


@pytest.mark.parametrize("way", ["high water", "sampled"])
def test_peak_sees_what_was_released_and_forgets_it(way):
    child = subprocess.run(
        [sys.executable, "-c", CHILD, way, str(SIZE)],
        env={**os.environ, **rss.child_environment(1), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=True,
    )
    peak, after = json.loads(child.stdout)
    assert SIZE * 0.98 < peak < SIZE * 1.1
    assert after < SIZE / 2


def test_child_environment_fixes_threads_and_returns_freed_memory():
    assert rss.child_environment(4) == {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "4"}


def test_limit_tells_wanted_and_allowed():
    assert rss.over_limit(900, None) is None and rss.over_limit(900, 1000) is None
    assert rss.over_limit(1234.4, 1000) == (
        "device.memory_limit_mib=1000: the process wanted 1234 MiB, imports included"
    )


def test_available_memory_is_a_part_of_the_machines():
    assert 0 < rss.available_mib() <= psutil.virtual_memory().total / rss.MIB
