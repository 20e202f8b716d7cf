"""Durations by the host's clock, and by events of a device that works behind the host's back."""

from time import sleep

import pytest
import torch

from wasi.training.durations import Durations


class Gpu:
    """A GPU on which each event comes 10 ms after the one before, and is over once `done` events have happened."""

    def __init__(self):
        self.recorded, self.done, self.waits = 0, 0, 0

    def event(self, enable_timing):
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, gpu):
        self.gpu = gpu

    def record(self):
        self.gpu.recorded += 1
        self.number = self.gpu.recorded

    def query(self):
        return self.number <= self.gpu.done

    def synchronize(self):
        self.gpu.waits += not self.query()
        self.gpu.done = max(self.gpu.done, self.number)

    def elapsed_time(self, other):
        assert self.query() and other.query()
        return 10.0 * (other.number - self.number)


def test_on_a_cpu_the_hosts_clock_counts_what_was_ended():
    durations = Durations(torch.device("cpu"))
    durations.start()
    stop = durations.start()
    sleep(0.02)
    stop()
    (found,) = durations.seconds()
    assert 0.02 <= found < 10


def test_on_a_gpu_the_host_waits_only_when_durations_are_read(monkeypatch):
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    durations = Durations(torch.device("cuda"))
    for skipped in (False, True, False):
        stop = durations.start()
        if not skipped:
            stop()
    assert gpu.waits == 0
    gpu.done = 2  # the first is over
    durations.start()()
    assert gpu.waits == 0
    assert durations.seconds() == [pytest.approx(0.01)] * 3 and gpu.waits == 1
    assert len(durations.seconds()) == 3 and gpu.waits == 1
