"""The throughput of loading alone."""

from contextlib import contextmanager

import pytest
from omegaconf import OmegaConf

from wasi.bench import data_throughput as module
from wasi.bench.data_throughput import loading
from wasi.bench.job_identity import bench_fingerprint
from wasi.bench.measure import Bench
from wasi.bench.measurement import Measurement, Side

SMALL = ("dataset.train_size=40", "dataset.batch_size=16", "dataset.image_size=32")


def test_whole_epochs_are_loaded_and_every_image_counts_once(compose_config, monkeypatch):
    """Of epochs of 16, 16 and 8 images: two batches to warm up, then five in 10 ms each."""
    monkeypatch.setattr(module, "time_steps", lambda load, warmup, *_: [load() or 10.0 for _ in range(7)][warmup:])
    found = loading(compose_config(*SMALL), warmup=2, min_count=5, min_seconds=0.0)
    assert found["data/images_per_second"] == pytest.approx((8 + 16 + 16 + 8 + 16) / 0.05)
    assert found["time/load_batch_ms_p50"] == 10.0


@pytest.mark.parametrize("options", [(), ("augment=deit", "dataset.num_workers=1")])
def test_it_is_measured(compose_config, options):
    found = loading(compose_config(*SMALL, *options), warmup=1, min_count=4, min_seconds=0.0)
    assert all(value > 0 for value in found.values())


def test_it_has_a_process_of_its_own(compose_config, tmp_path):
    asked = []

    class Fake:
        def ask(self, do, **arguments):
            asked.append((do, arguments["config"]))
            return {"data/images_per_second": 5.0}

    @contextmanager
    def start(who, environment, log):
        yield Fake()

    result = Measurement(Side({"name": "mine"}), None)
    Bench(compose_config("bench.data=true", config="bench"), result, tmp_path / "log", start)._loading()
    assert asked == [("loading", {"name": "mine"})]
    assert result.ours.metrics()["data/images_per_second"] == 5.0


def test_a_benchmark_without_it_is_what_it_was(compose_config):
    plain, more = (compose_config(f"bench.data={word}", config="bench") for word in ("false", "true"))
    assert bench_fingerprint(plain) != bench_fingerprint(more)
    OmegaConf.set_struct(plain, False)
    del plain.bench["data"]
    assert bench_fingerprint(plain) == bench_fingerprint(compose_config(config="bench"))
