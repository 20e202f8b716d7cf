"""Distributions of times, and the ratio of two that were taken in turns."""

import time
from collections.abc import Callable, Sequence

import numpy as np

WIDE = 0.10  # IQR over median above which a distribution is called wide


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


def spread_warning(name: str, samples: Sequence[float]) -> str | None:
    """One line when the samples are spread so widely that their median says little."""
    s = summary(samples)
    if s["iqr"] <= WIDE * s["p50"]:
        return None
    share = s["iqr"] / s["p50"]
    return f"{name}: wide spread, IQR is {share:.0%} of the median over {s['n']} samples (limit {WIDE:.0%})"


def paired_ratio(
    baseline_rounds: Sequence[Sequence[float]],
    our_rounds: Sequence[Sequence[float]],
    generator: np.random.Generator,
    resamples: int = 2000,
) -> dict[str, float]:
    """Baseline over ours, `p50`, and its bootstrap 95 % interval, `low` to `high`.

    Both lists hold the samples of the same rounds, taken in turns, so that a drift of the machine hits both
    alike. One ratio of medians per round; `p50` is the median over rounds. Resampled in two levels: rounds,
    and the samples of either side within each, so that a few rounds still give an honest interval.
    """
    if len(baseline_rounds) != len(our_rounds) or not our_rounds:
        raise ValueError(f"{len(baseline_rounds)} baseline rounds, {len(our_rounds)} of ours: need equally many")
    rounds = list(zip(baseline_rounds, our_rounds, strict=True))
    drawn = np.stack([_round_ratios(a, b, generator, resamples) for a, b in rounds])  # rounds x resamples
    picks = generator.integers(len(drawn), size=drawn.shape)
    medians = np.median(np.take_along_axis(drawn, picks, axis=0), axis=0)
    low, high = np.percentile(medians, [2.5, 97.5])
    return {
        "p50": float(np.median([np.median(a) / np.median(b) for a, b in rounds])),
        "low": float(low),
        "high": float(high),
    }


def _round_ratios(
    baseline: Sequence[float], ours: Sequence[float], generator: np.random.Generator, resamples: int
) -> np.ndarray:
    """Bootstrap distribution of one round's ratio of medians, shape `[resamples]`."""
    draws = (generator.choice(np.asarray(side), size=(resamples, len(side))) for side in (baseline, ours))
    over, under = (np.median(draw, axis=1) for draw in draws)
    return over / under
