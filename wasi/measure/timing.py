"""Distributions of times, and the ratio of two that were taken in turns."""

import time
from collections.abc import Callable, Sequence

import numpy as np

WIDE = 0.10  # IQR over median above which a distribution is called wide
MIN_ROUNDS = 4  # fewer say too little about what differs between them for an interval


def time_steps(
    run: Callable[[], object],
    warmup: int,
    min_count: int,
    min_seconds: float,
    synchronize: Callable[[], object] | None = None,
) -> list[float]:
    """Milliseconds of single calls, after `warmup` untimed ones, until both minima are met.

    Args:
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
    """What waits for work on this kind of device, or None where calls return when they are done."""
    if device_type != "cuda":
        return None
    import torch

    return torch.cuda.synchronize


def summary(samples: Sequence[float]) -> dict[str, float]:
    """`p50`, `p90` and `iqr` in the samples' unit, and their number `n`."""
    q25, q50, q75, q90 = np.percentile(samples, [25, 50, 75, 90])
    return {"p50": float(q50), "p90": float(q90), "iqr": float(q75 - q25), "n": len(samples)}


def spreads(rounds: Sequence[Sequence[float]], rounds_per_run: int | None = None) -> dict[str, float]:
    """Where samples differ: relative standard deviations, absent where there are too few to tell.

    - within: of samples about their own round's mean, pooled over rounds of two samples and more;
    - rounds: of the rounds' medians about their run's, which shows a machine that drifts (at least four rounds);
    - runs: of the runs' medians, each run being another process (at least two runs).

    Args:
        rounds: samples of each round, in order; rounds_per_run: consecutive rounds of one process; None: all.
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
    """One line when the samples are spread so widely that their median says little, and where they differ."""
    s = summary([sample for samples in rounds for sample in samples])
    if s["iqr"] <= WIDE * s["p50"]:
        return None
    share, parts = s["iqr"] / s["p50"], spreads(rounds, rounds_per_run)
    words = {"within": "within rounds", "rounds": "between rounds", "runs": "between runs"}
    told = "".join(f", {parts[part]:.0%} {where}" for part, where in words.items() if part in parts)
    return f"{name}: wide spread, IQR is {share:.0%} of the median over {s['n']} samples (limit {WIDE:.0%}){told}"


def paired_ratio(
    baseline_rounds: Sequence[Sequence[float]],
    our_rounds: Sequence[Sequence[float]],
    rounds_per_run: int | None = None,
    percent: float = 50,
) -> dict[str, float]:
    """Baseline over ours: `p50` and, from four rounds on, the ends `low` and `high` of its 95 % interval.

    Both lists hold the samples of the same rounds, taken in turns, so that a drift of the machine hits both alike. Each
    round gives one ratio, that of the percentile `percent` of either side. `p50` is the geometric mean of the ratios,
    and the interval is the t-interval of their logarithms; with at least four whole runs of `rounds_per_run` rounds, it
    is that of the runs' mean logarithms, so that it covers what another start of the processes would change. (A
    bootstrap of four rounds that differ more than the samples within them covers the ratio in 86 to 91 % of
    experiments: its ends are hardly ever beyond the extreme rounds.)

    Raises:
        ValueError: the two lists are not equally long, or empty.
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
    per = rounds_per_run or len(medians)
    return [np.asarray(medians[start : start + per]) for start in range(0, len(medians), per)]
