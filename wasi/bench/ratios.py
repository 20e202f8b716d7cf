"""Ratios of the baseline's metrics to the configuration's: for costs (time, memory, FLOPs) above 1 is better.

Imports no torch.
"""

import re
from typing import TYPE_CHECKING

from wasi.measure.timing import paired_ratio

if TYPE_CHECKING:
    from wasi.bench.measurement import Side

ACHIEVED = (  # work per time, and the metrics that it is made of
    ("flops/train_achieved_gflops", "flops/train_step", "time/train_step_ms_p50"),
    ("flops/inference_achieved_gflops", "flops/inference", "time/inference_ms_p50"),
)
_MEASURED_ONCE = re.compile(r"memory/.*_rss_peak_mib|power/|energy/|time/|.*_achieved_gflops")


def ratios(baseline: "Side", ours: "Side") -> dict[str, dict[str, float]]:
    """Return metric -> {p50, low, high} for all metrics of both sides that are not zero in `ours`.

    Times have a 95 % interval over rounds (`paired_ratio`), from four rounds on. Exact counts (live tensors, FLOPs,
    parameters) have low = high = p50. What was not measured in turns (resident memory, breakdown, power) has p50 alone.
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
        pairs = list(zip(baseline.rounds[kind], ours.rounds[kind], strict=False))  # the last round may lack a side
        if not pairs:
            continue
        over, under = zip(*pairs, strict=True)
        for percent in (50, 90):
            found[f"{kind}_p{percent}"] = paired_ratio(over, under, ours.rounds_per_run, percent)
    return found


def _achieved(found: dict, theirs: dict, mine: dict) -> dict[str, dict[str, float]]:
    """Return the ratios of FLOPs per second: those of FLOPs, which are exact, divided by the interval of the times."""
    ratios_of_work = {}
    for achieved, flops, time in ACHIEVED:
        if achieved in found and time in found:
            work, t = theirs[flops] / mine[flops], found[time]
            ratios_of_work[achieved] = {"p50": work / t["p50"]}
            if "low" in t:
                ratios_of_work[achieved] |= {"low": work / t["high"], "high": work / t["low"]}
    return ratios_of_work
