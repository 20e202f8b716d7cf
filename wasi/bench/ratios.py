"""Baseline over ours, per metric: above 1 is better for what costs (times, memory, FLOPs). No torch."""

import re
from typing import TYPE_CHECKING

import numpy as np

from wasi.measure.timing import MIN_ROUNDS, paired_ratio, resampled_rounds

if TYPE_CHECKING:
    from wasi.bench.measurement import Side

_RESAMPLES = 1000
_MEASURED_ONCE = re.compile(r"memory/.*_rss_peak_mib|power/|energy/|time/|.*_achieved_gflops")


def ratios(baseline: "Side", ours: "Side") -> dict[str, dict[str, float]]:
    """name -> {p50, low, high} for what was measured on both sides and is not zero on ours.

    Times have a bootstrap 95 % interval over rounds and samples, from four rounds on. What is counted exactly (live
    tensors, FLOPs, parameters) has low = high = p50. What was measured once, not in turns (resident memory, a step's
    parts, power), is a ratio alone.
    """
    theirs, mine = baseline.metrics(), ours.metrics()
    timed = _timed(baseline, ours)
    found = {}
    for name in sorted(theirs.keys() & mine.keys()):
        if mine[name] == 0 or name.endswith("_iqr") or "_spread_" in name:
            continue
        ratio = theirs[name] / mine[name]
        alone = {"p50": ratio} if _MEASURED_ONCE.match(name) else {"p50": ratio, "low": ratio, "high": ratio}
        found[name] = timed.get(name, alone)
    return found | _achieved(found, theirs, mine)


def _timed(baseline: "Side", ours: "Side") -> dict[str, dict[str, float]]:
    found = {}
    for kind in baseline.rounds:
        pairs = list(zip(baseline.rounds[kind], ours.rounds[kind], strict=False))  # a last round may be half done
        if not pairs:
            continue
        over, under = zip(*pairs, strict=True)
        per_run = ours.rounds_per_run
        found[f"{kind}_p50"] = paired_ratio(over, under, _generator(), _RESAMPLES, per_run)
        found[f"{kind}_p90"] = _quantile_ratio(over, under, 90, per_run)
    return found


def _quantile_ratio(over_rounds, under_rounds, percent: float, per_run: int | None) -> dict[str, float]:
    """Ratio of a quantile over all rounds; rounds are resampled together, then samples within each."""
    over, under = (np.percentile(np.concatenate(rounds), percent) for rounds in (over_rounds, under_rounds))
    if len(over_rounds) < MIN_ROUNDS:
        return {"p50": float(over / under)}
    rng = _generator()
    picks = resampled_rounds(len(over_rounds), _RESAMPLES, rng, per_run).T
    top, bottom = (_drawn_quantiles(rounds, picks, percent, rng) for rounds in (over_rounds, under_rounds))
    low, high = np.percentile(top / bottom, [2.5, 97.5])
    return {"p50": float(over / under), "low": float(low), "high": float(high)}


def _drawn_quantiles(rounds, picks: np.ndarray, percent: float, rng: np.random.Generator) -> np.ndarray:
    """One quantile per row of `picks` (resamples x rounds), over samples drawn anew from the rounds picked."""
    widest = max(map(len, rounds))
    drawn = np.full((len(rounds), len(picks), widest), np.nan)  # rounds differ in length
    for place, samples in enumerate(rounds):
        drawn[place, :, : len(samples)] = rng.choice(np.asarray(samples), size=(len(picks), len(samples)))
    chosen = drawn[picks, np.arange(len(picks))[:, None]]
    return np.nanpercentile(chosen.reshape(len(picks), -1), percent, axis=1)


def _achieved(found: dict, theirs: dict, mine: dict) -> dict[str, dict[str, float]]:
    """Work over time: the ratio of the work is exact, so the interval is that of the time, turned around."""
    told = {}
    for achieved, flops, time in (
        ("flops/train_achieved_gflops", "flops/train_step", "time/train_step_ms_p50"),
        ("flops/inference_achieved_gflops", "flops/inference", "time/inference_ms_p50"),
    ):
        if achieved in found and time in found:
            work, t = theirs[flops] / mine[flops], found[time]
            told[achieved] = {"p50": work / t["p50"]}
            if "low" in t:
                told[achieved] |= {"low": work / t["high"], "high": work / t["low"]}
    return told


def _generator() -> np.random.Generator:
    """The same file gives the same intervals."""
    return np.random.default_rng(0)
