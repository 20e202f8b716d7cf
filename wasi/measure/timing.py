"""Measure and summarise times, and compute the ratio of two series measured in alternation."""

import time
from collections.abc import Callable, Sequence

import numpy as np

WIDE = 0.10  # IQR over median above which a distribution is called wide
MIN_ROUNDS = 4  # fewer rounds are too few to estimate the variation between rounds


def time_steps(
    run: Callable[[], object],
    warmup: int,
    min_count: int,
    min_seconds: float,
    synchronize: Callable[[], object] | None = None,
) -> list[float]:
    """Return the milliseconds of single calls of `run`, after `warmup` untimed calls.

    Args:
        min_count, min_seconds: calls are timed until there are so many, and they have taken so long together.
        synchronize: waits for the device (`torch.cuda.synchronize`); called before both clock readings.
    """
    wait = synchronize or (lambda: None)
    for _ in range(warmup):
        run()
    samples: list[float] = []
    spent = 0.0
    while len(samples) < min_count or spent < 1000 * min_seconds:
        wait()
        start = time.perf_counter_ns()
        run()
        wait()
        samples.append((time.perf_counter_ns() - start) / 1e6)
        spent += samples[-1]
    return samples


def synchronizer(device_type: str) -> Callable[[], object] | None:
    """Return the function that waits for the device's work, or None for devices that work synchronously."""
    if device_type != "cuda":
        return None
    import torch

    return torch.cuda.synchronize


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Return percentiles `p50` and `p90` and the interquartile range `iqr` of the samples, and their number `n`."""
    q25, q50, q75, q90 = np.percentile(samples, [25, 50, 75, 90])
    return {"p50": float(q50), "p90": float(q90), "iqr": float(q75 - q25), "n": len(samples)}


def spreads(rounds: Sequence[Sequence[float]], rounds_per_run: int | None = None) -> dict[str, float]:
    """Return the standard deviations of samples at three levels, relative to the median of all samples.

    - within: of samples about the mean of their round, pooled over rounds with two or more samples;
    - rounds: of the rounds' medians about their mean within a run, a sign of drift (from four rounds on);
    - runs: of the runs' medians, a run being the rounds of one process (from two runs on).

    Levels with too few samples are absent.

    Args:
        rounds: samples of each round, in order.
        rounds_per_run: number of consecutive rounds of one process; None: all of them.
    """
    arrays = [np.asarray(samples) for samples in rounds if len(samples)]
    if not arrays:
        return {}
    median = np.median(np.concatenate(arrays))
    found = {}
    freedom = sum(len(samples) - 1 for samples in arrays)
    if freedom:
        found["within"] = np.sqrt(sum(((r - r.mean()) ** 2).sum() for r in arrays) / freedom) / median
    runs = _runs([np.median(samples) for samples in arrays], rounds_per_run)
    freedom = sum(len(medians) - 1 for medians in runs)
    if len(arrays) >= MIN_ROUNDS and freedom:
        found["rounds"] = np.sqrt(sum(((m - np.mean(m)) ** 2).sum() for m in runs) / freedom) / median
    if len(runs) > 1:
        found["runs"] = np.std([np.median(medians) for medians in runs], ddof=1) / median
    return {name: float(value) for name, value in found.items()}


def spread_warning(name: str, rounds: Sequence[Sequence[float]], rounds_per_run: int | None = None) -> str | None:
    """Return a one-line warning with the levels of `spreads` if the samples' IQR exceeds `WIDE` of their median.

    Returns:
        The warning, which begins with `name`, or None.
    """
    s = summary([sample for samples in rounds for sample in samples])
    if s["iqr"] <= WIDE * s["p50"]:
        return None
    share, parts = s["iqr"] / s["p50"], spreads(rounds, rounds_per_run)
    words = {"within": "within rounds", "rounds": "between rounds", "runs": "between runs"}
    text = "".join(f", {parts[part]:.0%} {where}" for part, where in words.items() if part in parts)
    return f"{name}: wide spread, IQR is {share:.0%} of the median over {s['n']} samples (limit {WIDE:.0%}){text}"


def paired_ratio(
    baseline_rounds: Sequence[Sequence[float]],
    our_rounds: Sequence[Sequence[float]],
    rounds_per_run: int | None = None,
    percent: float = 50,
) -> dict[str, float]:
    """Return the ratio of times, baseline over ours, as `p50`, and its 95 % interval as `low` and `high`.

    The interval is present from four rounds on. Both lists hold samples of the same rounds, measured in alternation, so
    that drift of the machine affects both alike. Each round gives one ratio, of the percentiles `percent` of both
    sides. `p50` is the geometric mean of these ratios, and the interval is the t-interval of their logarithms. With at
    least four whole runs of `rounds_per_run` rounds, it is the t-interval of the runs' mean logarithms, which includes
    the variation between starts of the processes. (A bootstrap interval would be too narrow: with four rounds that
    differ more than the samples within them, it covers the ratio in only 86 to 91 % of experiments.)

    Raises:
        ValueError: the two lists differ in length, or are empty.
    """
    if len(baseline_rounds) != len(our_rounds) or not our_rounds:
        raise ValueError(f"{len(baseline_rounds)} baseline rounds, {len(our_rounds)} of ours: need equally many")
    rounds = zip(baseline_rounds, our_rounds, strict=True)
    logs = np.log([np.percentile(a, percent) / np.percentile(b, percent) for a, b in rounds])
    ratio = {"p50": float(np.exp(np.mean(logs)))}
    if len(logs) < MIN_ROUNDS:
        return ratio
    runs = [run for run in _runs(logs.tolist(), rounds_per_run) if len(run) == rounds_per_run]  # the last may be cut
    units = np.array([np.mean(run) for run in runs]) if len(runs) >= MIN_ROUNDS else logs

    from scipy.stats import t

    half = float(t.ppf(0.975, len(units) - 1) * np.std(units, ddof=1) / np.sqrt(len(units)))
    return {**ratio, "low": ratio["p50"] * float(np.exp(-half)), "high": ratio["p50"] * float(np.exp(half))}


def _runs(medians: Sequence[float], rounds_per_run: int | None) -> list[np.ndarray]:
    """Split values per round into those of each run."""
    per = rounds_per_run or len(medians)
    return [np.asarray(medians[start : start + per]) for start in range(0, len(medians), per)]
