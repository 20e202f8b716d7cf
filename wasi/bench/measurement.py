"""The measurements of a job so far, and the sections of bench.json made of them. Imports no torch."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from wasi.measure.telemetry import Snapshot, throttled_during, throttling_unseen
from wasi.measure.timing import paired_ratio, spread_warning, spreads, summary
from wasi.runs.result import measured

TRAIN, INFERENCE = "time/train_step_ms", "time/inference_ms"
_SUBSPACE_PART = "decomposition"
_ACHIEVED = (  # work per time, and the metrics that it is made of
    ("flops/train_achieved_gflops", "flops/train_step", "time/train_step_ms_p50"),
    ("flops/inference_achieved_gflops", "flops/inference", "time/inference_ms_p50"),
)
_ENERGY = (  # power times time, likewise
    ("energy/train_step_joules", "power/train_watts", "time/train_step_ms_p50"),
    ("energy/inference_joules", "power/inference_watts", "time/inference_ms_p50"),
)
_MEASURED_ONCE = re.compile(r"memory/.*_rss_peak_mib|power/|energy/|time/|.*_achieved_gflops")


@dataclass
class Side:
    """Measurements of the configuration or of its baseline.

    config: from `measured_config`; counted: metrics reported as they are (memory, FLOPs, power); rounds: `TRAIN` or
    `INFERENCE` -> a list of samples in ms per round; breakdown: part -> ms, for each of its steps; layers: sizes
    and ranks as in result.json; rounds_per_run: number of consecutive rounds timed in one process, None for all.
    """

    config: dict
    counted: dict[str, float] = field(default_factory=dict)
    rounds: dict[str, list[list[float]]] = field(default_factory=lambda: {TRAIN: [], INFERENCE: []})
    breakdown: list[dict[str, float]] = field(default_factory=list)
    layers: list[dict] = field(default_factory=list)
    rounds_per_run: int | None = None

    def samples(self) -> dict:
        """Return all times in ms, unaggregated, under the keys of `samples` in bench.json."""
        kept = {kind: rounds for kind, rounds in self.rounds.items() if rounds}
        return {**kept, **({"time/breakdown_ms": self.breakdown} if self.breakdown else {})}

    def parts(self) -> dict[str, list[float]]:
        """Return part -> milliseconds in each step of the breakdown; needs at least one."""
        return {part: [step[part] for step in self.breakdown] for part in self.breakdown[0]}

    def metrics(self) -> dict[str, float]:
        """Return all metrics under the names of docs/measurement.md.

        Times have p50, p90, iqr and the parts of `spreads`; the breakdown is a mean over its steps.
        """
        found = dict(self.counted)
        for kind in (TRAIN, INFERENCE):
            if samples := [ms for one_round in self.rounds[kind] for ms in one_round]:
                s = summary(samples)
                found |= {f"{kind}_{name}": s[name] for name in ("p50", "p90", "iqr")}
                shares = spreads(self.rounds[kind], self.rounds_per_run)
                found |= {f"{kind}_spread_{name}": share for name, share in shares.items()}
        if self.breakdown:
            parts = self.parts()
            found |= {f"time/breakdown_{part}_ms": float(np.mean(ms)) for part, ms in parts.items()}
            if any(parts[_SUBSPACE_PART]):
                found["time/subspace_ms_p50"] = float(np.median(parts[_SUBSPACE_PART]))
        for name, flops, time in _ACHIEVED:
            if flops in found and time in found:
                found[name] = found[flops] / found[time] / 1e6
        for name, watts, time in _ENERGY:
            if watts in found and time in found:
                found[name] = found[watts] * found[time] / 1e3
        return measured(found)

    def warnings(self, who: str) -> list[str]:
        """Return a line for each kind of time with a wide spread; `who` names this side in it."""
        lines = (
            spread_warning(f"{who} {kind}", self.rounds[kind], self.rounds_per_run)
            for kind in (TRAIN, INFERENCE)
            if self.rounds[kind]
        )
        return [line for line in lines if line]


@dataclass
class Measurement:
    """Measurements of a configuration (`ours`) and of its baseline, and the state of the machine meanwhile."""

    ours: Side
    baseline: Side | None
    process: dict = field(default_factory=dict)  # the description that `Work.load` returned, and more
    looks: list[Snapshot] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def sides(self) -> Iterable[tuple[str, Side]]:
        """Yield (name, side), "ours" first."""
        yield "ours", self.ours
        if self.baseline is not None:
            yield "baseline", self.baseline

    def throttled(self) -> str | None:
        """Return why the measurement counts as throttled, or None."""
        return throttled_during(self.looks)

    def warnings(self) -> list[str]:
        """Return what limits the trust in the numbers, one line each."""
        unseen = throttling_unseen(self.looks) if self.looks else None
        blind = [unseen] if unseen else []
        return [*self.remarks, *(line for who, side in self.sides() for line in side.warnings(who)), *blind]

    def content(self) -> dict:
        """Return the sections of bench.json that hold measurements."""
        base = self.baseline
        return {
            "metrics": self.ours.metrics(),
            "baseline": None if base is None else {"config": base.config, "metrics": base.metrics()},
            "ratio": {} if base is None else ratios(base, self.ours),
            "samples": {who: side.samples() for who, side in self.sides()},
            "layers": self.ours.layers,
        }

    def telemetry(self) -> dict:
        """Return the first and the last snapshot of the machine and the highest temperature, where known."""
        looks = {"before": self.looks[:1], "after": self.looks[1:][-1:]}
        known = {when: look[0].known() for when, look in looks.items() if look and look[0].known()}
        degrees = [look.temperature_c for look in self.looks if look.temperature_c is not None]
        return {**known, "hottest_c": max(degrees)} if degrees else known


def ratios(baseline: Side, ours: Side) -> dict[str, dict[str, float]]:
    """Return metric -> {p50, low, high} of baseline / ours for all metrics of both sides that are not zero in `ours`.

    For costs (time, memory, FLOPs), above 1 is better. Times have a 95 % interval over rounds (`paired_ratio`), from
    four rounds on. Exact counts (live tensors, FLOPs, parameters) have low = high = p50. What was not measured in turns
    (resident memory, breakdown, power) has p50 alone.
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


def _timed(baseline: Side, ours: Side) -> dict[str, dict[str, float]]:
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
    for achieved, flops, time in _ACHIEVED:
        if achieved in found and time in found:
            work, t = theirs[flops] / mine[flops], found[time]
            ratios_of_work[achieved] = {"p50": work / t["p50"]}
            if "low" in t:
                ratios_of_work[achieved] |= {"low": work / t["high"], "high": work / t["low"]}
    return ratios_of_work
