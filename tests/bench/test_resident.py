"""The memory of a whole run, measured in a process of its own."""

import torch

from wasi.bench import resident, work
from wasi.bench.baseline import measured_config
from wasi.bench.resident import resident_memory_of
from wasi.bench.work import Work
from wasi.measure.timing import time_steps


def test_a_run_of_fewer_images_than_a_batch_is_measured_as_it_trains(compose_config, tmp_path):
    small = ("dataset=digits", "dataset.train_size=16", "dataset.val_size=8", "dataset.test_size=8")
    cfg = compose_config(*small, "model=vit_micro", "method=vanilla", "dataset.batch_size=32")
    found = resident_memory_of(cfg, 1, tmp_path / "log")
    assert 0 < found["memory/train_rss_peak_mib"] < found["memory/process_rss_peak_mib"]


def test_the_data_stay_until_the_steps_are_done_as_in_training(compose_config, monkeypatch):
    cfg = compose_config("model=vit_micro", "method=vanilla", "dataset=digits", "dataset.batch_size=8")
    measuring, held = Work(), []
    measuring.load(measured_config(cfg))

    def timed(*arguments):
        held.append(hasattr(measuring.subject, "data"))
        return time_steps(*arguments)

    monkeypatch.setattr(work, "time_steps", timed)
    measuring.rss_peak(steps=1)
    assert held == [True] and not hasattr(measuring.subject, "data")


class Measuring:
    """Stands in for the measuring process, and notes what it is asked."""

    def __init__(self, asked):
        self.asked = asked

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def ask(self, do, **arguments):
        self.asked.append(do)
        return {"baseline": 1.0, "peak": 2.0, "total": 3.0}


def test_a_gpus_memory_that_a_run_keeps_is_given_back_before_another_process_measures(
    compose_config, tmp_path, monkeypatch
):
    done = []
    monkeypatch.setattr(resident, "Child", lambda *_: Measuring(done))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("given back"))
    resident_memory_of(compose_config("method=vanilla"), 1, tmp_path / "log")
    assert done == ["given back", "load", "rss_peak"]
