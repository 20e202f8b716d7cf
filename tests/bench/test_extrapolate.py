"""What is predicted from small steps, held against steps that were really taken."""

import pytest

from wasi.bench.baseline import measured_config
from wasi.bench.extrapolate import Track, peak_at, predict
from wasi.bench.work import Work
from wasi.errors import UserError
from wasi.measure.memory import train_peak
from wasi.measure.rss import MIB

SYNTHETIC = ("dataset=synthetic", "dataset.batch_size=32", "device=cpu", "device.num_threads=1", "method.scope=all")
SGD = {"_target_": "torch.optim.SGD", "lr": 0.01}
ADAMW = {"_target_": "torch.optim.AdamW", "lr": 1e-4}


def test_a_peak_may_move_from_one_event_to_another():
    """10 + 2 B bytes before the optimizer, 30 in it: the second is the peak up to 10 images."""
    tracks = [Track(size, [4, 10 + 2 * size], [30, 5]) for size in (2, 4)]
    assert [peak_at(size, *tracks, parts=1) for size in (1, 10, 16)] == [30, 30, 42]


def test_chunks_that_repeat_events_are_compared_part_by_part():
    """One chunk after another, `3 B` bytes kept and 8 on top, in each of two segments; gradients of 20 at the end."""
    tracks = [Track(n, [3 * n + 8, 3 * n] * n + [28, 20] * n, [20]) for n in (3, 4)]
    assert [peak_at(size, *tracks, parts=2) for size in (4, 10)] == [28, 38]


def test_too_large_is_not_timed(compose_config):
    work = Work()
    work.load(measured_config(compose_config(*SYNTHETIC, "method=vanilla", config="bench")))
    asked = {"optimizers": {"sgd": SGD}, "memory": ["plain"], "batch_sizes": [4, 4096], "resident": 1.5}
    asked |= {"spare_mib": 100.0, "chunk_size": 4}
    small, large = predict(work.subject, {**asked, "epsilon": None, "surrogate_spectrum": False})["rows"]
    assert small["step_ms"] > 0 and large["live_mib"] > 100 and "step_ms" not in large
    assert large["resident_mib"] == pytest.approx(1.5 * large["live_mib"], rel=0.02)
    asked |= {"spare_mib": 3.0, "epsilon": None, "surrogate_spectrum": False}  # weights and gradients: 3.4 MiB
    assert all(row["at_least"] and 3.2 < row["live_mib"] < 3.6 for row in predict(work.subject, asked)["rows"])


def test_a_data_set_of_fewer_images_than_the_small_steps_take_is_told_of_at_its_own_size(compose_config):
    work = Work()
    config = measured_config(compose_config(*SYNTHETIC, "method=vanilla", "dataset.train_size=5", config="bench"))
    with pytest.raises(UserError, match="at most 5"):
        work.load(config)
    work.load(config, smaller=True)
    asked = {"optimizers": {"sgd": SGD}, "memory": ["plain", "lean"], "resident": 1.5, "spare_mib": 2000.0}
    asked |= {"chunk_size": 4, "epsilon": None, "surrogate_spectrum": False}
    assert [row["batch_size"] for row in predict(work.subject, {**asked, "batch_sizes": [4, 8]})["rows"]] == [4, 8] * 2
    rows = predict(work.subject, {**asked, "batch_sizes": [8, 16]})["rows"]
    assert [row["batch_size"] for row in rows] == [5, 5] and all(row["step_ms"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("method", "memory", "options", "tolerance"),
    [("vanilla", "plain", ADAMW, 0.001), ("wasi", "plain", SGD, 0.001), ("wasi", "lean", ADAMW, 0.1)],
)
def test_predicted_peaks_are_those_of_real_steps(compose_config, method, memory, options, tolerance):
    chunk = ["train.memory=lean", "train.chunk_size=4"] if memory == "lean" else []
    overrides = [*SYNTHETIC, f"method={method}", f"optimizer={'sgd' if options is SGD else 'adamw'}", *chunk]
    config = measured_config(compose_config(*overrides, config="bench"))
    real = Work()
    real.load(config)
    real.subject.build()
    step = real.subject.step
    peak = train_peak(step.model, step.optimizer, step, *real.subject.batch).total / MIB

    work = Work()
    work.load(config)
    epsilon = None if method == "vanilla" else 0.8
    asked = {"optimizers": {"x": options}, "memory": [memory], "batch_sizes": [32], "spare_mib": 10.0, "resident": 1.0}
    predicted = predict(work.subject, {**asked, "epsilon": epsilon, "surrogate_spectrum": False, "chunk_size": 4})
    assert predicted["rows"][0]["live_mib"] == pytest.approx(peak, rel=tolerance)
    assert predicted["images"] == 512 and 0.5 < predicted["model_mib"] < 2
