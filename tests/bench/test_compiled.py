"""`bench_device.py device.compile=true`: what a measuring process does with a compiled model."""

from wasi.bench.baseline import measured_config
from wasi.bench.work import Work
from wasi.training import compile as compiling
from wasi.training.compile import graph_count

OPTIONS = ("dataset=synthetic", "dataset.batch_size=4", "dataset.train_size=8", "dataset.val_size=4", "device=cpu")


def test_nothing_is_compiled_while_it_is_timed_or_counted(compose_config, monkeypatch):
    graphs_that_run_as_they_are = {"backend": "aot_eager", "options": None}
    monkeypatch.setattr(compiling, "COMPILE_OPTIONS", compiling.COMPILE_OPTIONS | graphs_that_run_as_they_are)
    config = measured_config(compose_config(*OPTIONS, "method=vanilla", "device.compile=true", config="bench"))
    work = Work()
    assert work.load(config)["compiled"]
    before = graph_count()
    work.build()
    built = graph_count()
    assert built == before + 1  # four equal blocks
    assert len(work.time_train(warmup=0, min_count=2, min_seconds=0.0)) >= 2 and graph_count() == built
    assert work.breakdown(1) == []
    assert work.live_peaks()["memory/train_peak_mib"] > 0 and work.count()["flops/train_step"] > 0
    assert graph_count() == built
    work.time_inference(warmup=0, min_count=2, min_seconds=0.0)
    assert graph_count() == built + 1
