"""Baseline over ours, per metric: above 1 is better for what costs (times, memory, FLOPs). No torch."""

from typing import TYPE_CHECKING

import numpy as np

from wasi.measure.timing import paired_ratio

if TYPE_CHECKING:
    from wasi.bench.measurement import Side

SUBSPACE_PART = "decomposition"
_RESAMPLES = 1000


def ratios(baseline: "Side", ours: "Side") -> dict[str, dict[str, float]]:
    """name -> {p50, low, high} for what was measured on both sides and is not zero on ours.

    Times have a bootstrap 95 % interval over rounds and samples; a step's parts, which are not taken in turns,
    over steps. What is counted, and the process's single peak of resident memory, has low = high = p50.
    """
    theirs, mine = baseline.metrics(), ours.metrics()
    timed = {**_timed(baseline, ours), **_parts(baseline, ours)}
    found = {}
    for name in sorted(theirs.keys() & mine.keys()):
        if mine[name] == 0 or name.endswith("_iqr"):
            continue
        ratio = theirs[name] / mine[name]
        found[name] = timed.get(name, {"p50": ratio, "low": ratio, "high": ratio})
    return found | _achieved(found, theirs, mine)


def _timed(baseline: "Side", ours: "Side") -> dict[str, dict[str, float]]:
    found = {}
    for kind in baseline.rounds:
        pairs = list(zip(baseline.rounds[kind], ours.rounds[kind], strict=False))  # a last round may be half done
        if not pairs:
            continue
        over, under = zip(*pairs, strict=True)
        found[f"{kind}_p50"] = paired_ratio(over, under, _generator(), _RESAMPLES)
        found[f"{kind}_p90"] = _quantile_ratio(over, under, 90)
    return found


def _parts(baseline: "Side", ours: "Side") -> dict[str, dict[str, float]]:
    if not (baseline.breakdown and ours.breakdown):
        return {}
    over, under = baseline.parts(), ours.parts()
    ratios = {f"time/breakdown_{part}_ms": _mean_ratio(over[part], under[part]) for part in over}
    subspace = over[SUBSPACE_PART], under[SUBSPACE_PART]
    if all(any(ms) for ms in subspace):
        ratios["time/subspace_ms_p50"] = _quantile_ratio([subspace[0]], [subspace[1]], 50)
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def _quantile_ratio(over_rounds, under_rounds, percent: float) -> dict[str, float]:
    """Ratio of a quantile over all rounds; rounds are resampled together, then samples within each."""
    rng = _generator()
    picks = rng.integers(len(over_rounds), size=(_RESAMPLES, len(over_rounds)))
    top, bottom = (_drawn_quantiles(rounds, picks, percent, rng) for rounds in (over_rounds, under_rounds))
    over, under = (np.percentile(np.concatenate(rounds), percent) for rounds in (over_rounds, under_rounds))
    return _interval(over / under, top / bottom)


def _drawn_quantiles(rounds, picks: np.ndarray, percent: float, rng: np.random.Generator) -> np.ndarray:
    """One quantile per row of `picks` (resamples x rounds), over samples drawn anew from the rounds picked."""
    widest = max(map(len, rounds))
    drawn = np.full((len(rounds), len(picks), widest), np.nan)  # rounds differ in length
    for place, samples in enumerate(rounds):
        drawn[place, :, : len(samples)] = rng.choice(np.asarray(samples), size=(len(picks), len(samples)))
    chosen = drawn[picks, np.arange(len(picks))[:, None]]
    return np.nanpercentile(chosen.reshape(len(picks), -1), percent, axis=1)


def _mean_ratio(over: list[float], under: list[float]) -> dict[str, float] | None:
    rng = _generator()
    means = [rng.choice(side, size=(_RESAMPLES, len(side))).mean(axis=1) for side in (over, under)]
    if not means[1].all():
        return None
    return _interval(np.mean(over) / np.mean(under), means[0] / means[1])


def _achieved(found: dict, theirs: dict, mine: dict) -> dict[str, dict[str, float]]:
    """Work over time: the ratio of the work is exact, so the interval is that of the time, turned around."""
    told = {}
    for achieved, flops, time in (
        ("flops/train_achieved_gflops", "flops/train_step", "time/train_step_ms_p50"),
        ("flops/inference_achieved_gflops", "flops/inference", "time/inference_ms_p50"),
    ):
        if achieved in found and time in found:
            work, t = theirs[flops] / mine[flops], found[time]
            told[achieved] = {"p50": work / t["p50"], "low": work / t["high"], "high": work / t["low"]}
    return told


def _interval(p50: float, drawn) -> dict[str, float]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"p50": float(p50), "low": float(low), "high": float(high)}


def _generator() -> np.random.Generator:
    """The same file gives the same intervals."""
    return np.random.default_rng(0)
