"""Metrics from samples, and the ratios of two sides."""

import numpy as np
import pytest

from wasi.bench.measurement import INFERENCE, TRAIN, Measurement, Side, ratios
from wasi.measure.telemetry import Snapshot


def side(scale: float, seed: int, rounds: int = 5, noise: float = 0.02) -> Side:
    rng = np.random.default_rng(seed)
    drift = np.linspace(1, 1.5, rounds)
    made = Side({"method": {"name": "x"}})
    for kind, ms in ((TRAIN, 100 * scale), (INFERENCE, 30 * scale)):
        made.rounds[kind] = [(ms * d * (1 + noise * rng.standard_normal(6))).tolist() for d in drift]
    made.counted = {
        "memory/train_peak_mib": 300.0 * scale,
        "flops/train_step": 2e9,
        "memory/train_optimizer_mib": 0.0,
    }
    made.breakdown = [{"decomposition": 0.0, "attention": 10.0 * scale, "rest": 80.0}] * 3
    return made


def test_metrics_are_quantiles_of_all_samples():
    made = Side({})
    made.rounds[TRAIN] = [[1.0, 2.0], [3.0, 4.0, 5.0]]
    made.counted = {"flops/train_step": 6e9}
    assert made.metrics() == {
        "flops/train_step": 6e9,
        "time/train_step_ms_p50": 3.0,
        "time/train_step_ms_p90": pytest.approx(4.6),
        "time/train_step_ms_iqr": 2.0,
        "time/train_step_ms_spread_within": pytest.approx((2.5 / 3) ** 0.5 / 3),
        "flops/train_achieved_gflops": 2000.0,
    }
    assert made.samples() == {TRAIN: [[1.0, 2.0], [3.0, 4.0, 5.0]]}


def test_joules_are_of_the_time_beside_them():
    made = Side({})
    made.counted = {"power/train_watts": 5.0, "power/inference_watts": 4.0}
    for kind in (TRAIN, INFERENCE):
        made.rounds[kind] = [[2.0]]
    assert made.metrics()["energy/train_step_joules"] == 0.01 and made.metrics()["energy/inference_joules"] == 0.008
    made.rounds[TRAIN] += [[4.0], [4.0]]  # of further starts, after the power was measured
    assert made.metrics()["energy/train_step_joules"] == 0.02


def test_nothing_measured_is_nothing_told():
    assert Side({}).metrics() == {} and Side({}).samples() == {}
    assert ratios(Side({}), side(1, 0)) == {}


def test_breakdown_is_the_mean_per_step_and_subspace_its_median():
    made = Side({})
    made.breakdown = [
        {"decomposition": 1.0, "rest": 2.0},
        {"decomposition": 2.0, "rest": 2.0},
        {"decomposition": 9.0, "rest": 5.0},
    ]
    assert made.metrics() == {
        "time/breakdown_decomposition_ms": 4.0,
        "time/breakdown_rest_ms": 3.0,
        "time/subspace_ms_p50": 2.0,
    }


def test_a_a():
    found = ratios(side(1, 0), side(1, 1))
    for name in ("time/train_step_ms_p50", "time/train_step_ms_p90", "time/inference_ms_p50"):
        assert found[name]["low"] <= 1 <= found[name]["high"] and found[name]["high"] - found[name]["low"] < 0.12
    assert found["memory/train_peak_mib"] == {"p50": 1.0, "low": 1.0, "high": 1.0}


def test_twice_as_fast():
    found = ratios(side(2, 0), side(1, 1))
    assert found["time/train_step_ms_p50"]["low"] > 1.9 and found["time/train_step_ms_p50"]["high"] < 2.1
    assert found["time/train_step_ms_p90"]["p50"] == pytest.approx(2, rel=0.06)
    assert found["memory/train_peak_mib"]["p50"] == 2
    achieved, time = found["flops/train_achieved_gflops"], found["time/train_step_ms_p50"]
    assert achieved == {"p50": 1 / time["p50"], "low": 1 / time["high"], "high": 1 / time["low"]}
    assert found["time/breakdown_attention_ms"] == {"p50": pytest.approx(2)}  # of one pass: no interval
    # Ours has none of it: no ratio, and no division by zero.
    assert not {"memory/train_optimizer_mib", "time/breakdown_decomposition_ms"} & found.keys()


def test_a_half_done_round_counts_for_the_metrics_alone():
    ours, baseline = side(1, 0), side(1, 1)
    whole = ratios(baseline, ours)["time/train_step_ms_p50"]
    baseline.rounds[TRAIN].append([1000.0] * 6)
    assert ratios(baseline, ours)["time/train_step_ms_p50"] == whole
    assert baseline.metrics()["time/train_step_ms_p90"] > 200


def test_no_interval_from_fewer_than_four_rounds():
    for name, ratio in ratios(side(2, 0, rounds=3), side(1, 1, rounds=3)).items():
        assert ("low" in ratio) == name.startswith(("memory/", "flops/train_step")), name
    assert "low" in ratios(side(2, 0, rounds=4), side(1, 1, rounds=4))["time/inference_ms_p90"]


def test_resident_memory_is_one_measurement():
    ours, baseline = side(1, 0), side(1, 1)
    ours.counted["memory/train_rss_peak_mib"], baseline.counted["memory/train_rss_peak_mib"] = 100.0, 200.0
    assert ratios(baseline, ours)["memory/train_rss_peak_mib"] == {"p50": 2.0}


def test_content_without_a_baseline():
    found = Measurement(side(1, 0), None).content()
    assert found["baseline"] is None and found["ratio"] == {} and set(found["samples"]) == {"ours"}


def test_wide_spread_is_told_with_its_side():
    wide = side(1, 0, noise=0.5)
    output = Measurement(side(1, 1, rounds=1), wide).warnings()
    assert any(line.startswith("baseline time/train_step_ms: wide spread") for line in output)
    assert not any(line.startswith("ours") for line in output)


def test_telemetry_is_the_first_and_the_last_look():
    made = Measurement(side(1, 0), None)
    assert made.telemetry() == {}
    made.looks = [Snapshot(temperature_c=40.0), Snapshot(temperature_c=70.0), Snapshot(temperature_c=60.0)]
    assert made.telemetry() == {
        "before": {"temperature_c": 40.0},
        "after": {"temperature_c": 60.0},
        "hottest_c": 70.0,
    }
