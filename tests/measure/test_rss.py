"""RSS peaks of known allocations, by the kernel's mark and by sampling."""

import time

import numpy as np
import pytest

from wasi.measure import rss

SIZE = 96  # MiB


def hold_and_release():
    block = np.ones(SIZE * rss.MIB, dtype=np.uint8)
    time.sleep(0.02)
    del block


@pytest.mark.parametrize("high_water", [True, False])
def test_peak_sees_what_was_released_again(monkeypatch, high_water):
    if not high_water:
        monkeypatch.setattr(rss, "_reset_high_water", lambda: False)
    before = rss.current_rss_mib()
    peak = rss.peak_rss_mib(hold_and_release)
    assert SIZE * 0.98 < peak - before < SIZE * 1.1
    # An earlier peak is forgotten.
    assert rss.peak_rss_mib(lambda: None) - before < SIZE / 2


def test_limit_tells_wanted_and_allowed():
    assert rss.over_limit(900, None) is None and rss.over_limit(900, 1000) is None
    assert rss.over_limit(1234.4, 1000) == (
        "device.memory_limit_mib=1000: the process wanted 1234 MiB, imports included"
    )
