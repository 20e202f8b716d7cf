"""Timing: counts and minima, quantiles, and the interval of a paired ratio."""

import time

import numpy as np
import pytest

from wasi.measure.timing import paired_ratio, spread_warning, spreads, summary, time_steps


def test_time_steps_meets_both_minima():
    calls = []
    by_count = time_steps(lambda: calls.append(1), warmup=3, min_count=5, min_seconds=0)
    assert len(by_count) == 5 and len(calls) == 8
    by_time = time_steps(lambda: time.sleep(0.01), warmup=0, min_count=1, min_seconds=0.05)
    assert 2 <= len(by_time) <= 5 and all(10 <= ms < 60 for ms in by_time)


def test_time_steps_waits_for_the_device():
    pending = []
    samples = time_steps(
        lambda: pending.append(0.01), 0, 3, 0, synchronize=lambda: [time.sleep(pending.pop()) for _ in pending[:]]
    )
    assert all(ms >= 10 for ms in samples)


def test_summary_is_numpys_quantiles():
    assert summary([4.0, 1.0, 3.0, 2.0, 5.0]) == {"p50": 3.0, "p90": pytest.approx(4.6), "iqr": 2.0, "n": 5}


def test_wide_spread_is_told_with_its_name():
    assert spread_warning("time/train_step_ms", [[100, 101, 102, 99]]) is None
    text = spread_warning("time/train_step_ms", [[100, 101], [130, 131]] * 2)
    assert text.startswith("time/train_step_ms: wide spread") and text.endswith("1% within rounds, 15% between rounds")


def rounds(rng, scale, drift, n=8, noise=0.03):
    return [scale * d * (1 + noise * rng.standard_normal(n)) for d in drift]


def test_paired_ratio_sees_through_drift():
    """A machine that becomes twice as slow meanwhile; the pairs still tell a 1.5x apart to a few percent."""
    rng = np.random.default_rng(0)
    drift = np.linspace(1, 2, 7)
    ratio = paired_ratio(rounds(rng, 150, drift), rounds(rng, 100, drift))
    assert ratio["low"] < 1.5 < ratio["high"] and ratio["high"] - ratio["low"] < 0.15
    assert ratio["low"] <= ratio["p50"] <= ratio["high"]


@pytest.mark.parametrize(("count", "samples"), [(4, 1), (4, 3), (8, 3)])
@pytest.mark.parametrize("within", [0.01, 0.03])
def test_the_interval_covers_the_ratio_in_19_of_20_experiments(count, samples, within):
    """Whether rounds differ more than samples within them, as on a busy machine, or less."""
    rng, hits, experiments = np.random.default_rng(2), 0, 1500
    for _ in range(experiments):
        drift, unlike = 1 + 0.1 * rng.standard_normal(count), 1 + 0.06 * rng.standard_normal(count)
        ratio = paired_ratio(rounds(rng, 1.5, drift * unlike, samples, within), rounds(rng, 1, drift, samples, within))
        hits += ratio["low"] <= 1.5 <= ratio["high"]
    assert 0.935 <= hits / experiments <= 0.965


def test_paired_ratio_refuses_unpaired_rounds():
    a, b = [[1.0, 2.0], [2.0, 3.0]] * 2, [[1.0, 1.5], [1.0, 1.1]] * 2
    with pytest.raises(ValueError, match="4 baseline rounds, 1 of ours"):
        paired_ratio(a, b[:1])


def test_no_interval_from_three_rounds():
    three = [[1.0, 2.0]] * 3
    assert paired_ratio(three, three) == {"p50": 1.0}


def test_where_samples_differ():
    rng = np.random.default_rng(4)
    noisy = lambda centre: (centre * (1 + 0.01 * rng.standard_normal(200))).tolist()  # noqa: E731
    runs = [1 + 0.2 * rng.standard_normal() for _ in range(60)]
    found = spreads([noisy(100 * run * (1 + 0.05 * rng.standard_normal())) for run in runs for _ in range(4)], 4)
    assert found["within"] == pytest.approx(0.01, rel=0.15)
    assert found["rounds"] == pytest.approx(0.05, rel=0.25)
    assert found["runs"] == pytest.approx(0.2, rel=0.3)
    assert spreads([[1.0], [2.0]]) == {} and set(spreads([[1.0, 2.0]])) == {"within"}


def test_from_four_runs_on_the_interval_covers_another_start():
    """Runs that differ by 20 % and rounds that do not: only an interval over runs is as wide as the runs differ."""
    ours = [[1.0] * 3] * 24
    baseline = [[1 + 0.2 * run] * 3 for run in range(4) for _ in range(6)]
    by_rounds, by_runs = paired_ratio(baseline, ours), paired_ratio(baseline, ours, rounds_per_run=6)
    assert by_runs["high"] - by_runs["low"] > 1.4 * (by_rounds["high"] - by_rounds["low"])
    for count in (18, 21):  # three runs, and half of a fourth
        by_runs = paired_ratio(baseline[:count], ours[:count], rounds_per_run=6)
        assert by_runs == paired_ratio(baseline[:count], ours[:count])
