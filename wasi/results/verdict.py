"""Sentences made from a table's numbers: whether the method that is judged meets its targets, and who beats it."""

from collections.abc import Callable
from dataclasses import dataclass

from wasi.config.declared import is_rival, is_subject, title
from wasi.pareto import better_everywhere
from wasi.report.columns import INFERENCE, PEAK, STEP
from wasi.report.fields import listed
from wasi.report.statistics import Paired
from wasi.results.rows import Row, Table

# The bounds of the four targets, as stated in the sentences.
POINTS_BELOW, STEP_SPEED, SHARE_OF_LORA, INFERENCE_SPEED = 1.5, 1.3, 0.7, 1.3


@dataclass(frozen=True)
class Judged:
    """How a row does on one target.

    finding: the measured value with the bound in brackets; "" if it was not measured. met: None if it was not measured.
    """

    name: str
    finding: str = ""
    met: bool | None = None


def sentences(table: Table) -> list[str]:
    """Up to three sentences about the rows of the method that is judged (`declared.is_subject`).

    The first tells which of them meets all four targets, which one misses the fewest, or what was not measured; a table
    without baseline, rivals or benchmarks has no such sentence, as two targets are about rivals, three about costs.
    The second tells which other rows beat all of them, the third which need less memory than any of them.
    """
    found = [_targets_sentence(table), _rivals_sentence(table), _memory_sentence(table)]
    return [sentence for sentence in found if sentence]


def _targets_sentence(table: Table) -> str | None:
    candidates = [row for row in table.rows if is_subject(row.group.method) and not row.is_lean]
    rivals = [row for row in table.rows if is_rival(row.group.method)]
    if table.baseline is None or not candidates or not rivals or not any(row.group.bench for row in table.rows):
        return None
    judged = {row.name: _judged(row, rivals, table, table.baseline) for row in candidates}
    meeting = [name for name, targets in judged.items() if all(target.met for target in targets)]
    if meeting:
        return " ".join(f"{name} meets the four targets at once: {_values(judged[name])}." for name in meeting)
    unknown = sorted({target.name for targets in judged.values() for target in targets if target.met is None})
    if unknown:
        return f"The four targets cannot be judged: not measured for every row: {', '.join(unknown)}."
    missed = {name: [target for target in targets if not target.met] for name, targets in judged.items()}
    nearest = min(missed, key=lambda name: len(missed[name]))
    start = f"No {title(is_subject)} row meets the four targets at once"
    return f"{start}; {nearest} misses {_values(missed[nearest])}."


def _values(targets: list[Judged]) -> str:
    return ", ".join(f"{target.name} {target.finding}" for target in targets)


def _judged(row: Row, rivals: list[Row], table: Table, baseline: Row) -> list[Judged]:
    """How the row does on each of the four targets."""
    twin = next((other for other in table.rows if other.is_lean and other.differs_by_memory_only(row)), None)
    peak = None if twin is None else twin.measured(PEAK)
    unquantized = [rival for rival in rivals if rival.group.options.get("method.base") is None]
    least = _extreme(min, [rival.measured(PEAK) for rival in unquantized if rival.is_lean])
    fastest = _extreme(max, [rival.ratio(INFERENCE) for rival in rivals if not rival.is_lean])
    share, inference = _quotient(peak, least), _quotient(row.ratio(INFERENCE), fastest)
    return [
        _accuracy(table.difference(row), baseline.name),
        _speed_target("step", row.ratio(STEP), STEP_SPEED, f"{baseline.name}'s"),
        _memory(share),
        _speed_target("inference", inference, INFERENCE_SPEED, f"plain {title(is_rival)}'s"),
    ]


def _accuracy(difference: Paired | None, baseline: str) -> Judged:
    """Judged by the mean difference. The interval is told with it, as it may reach beyond the bound."""
    if difference is None:
        return Judged("accuracy")
    interval = difference.interval
    bounds = "" if interval is None else f"; 95 % interval {100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}"
    points = 100 * difference.difference
    text = f"{points:+.2f} points against {baseline} (at least {-POINTS_BELOW}{bounds})"
    return Judged("accuracy", text, points >= -POINTS_BELOW)


def _speed_target(name: str, ratio: float | None, bound: float, whose: str) -> Judged:
    if ratio is None:
        return Judged(name)
    return Judged(name, f"{ratio:.2f}× as fast as {whose} (at least {bound}×)", ratio >= bound)


def _memory(share: float | None) -> Judged:
    if share is None:
        return Judged("lean peak")
    text = f"{share:.2f} of lean {title(is_rival)}'s with unquantized weights (at most {SHARE_OF_LORA})"
    return Judged("lean peak", text, share <= SHARE_OF_LORA)


def _quotient(value: float | None, by: float | None) -> float | None:
    return None if value is None or by is None else value / by


def _rivals_sentence(table: Table) -> str | None:
    ours = [row for row in table.rows if is_subject(row.group.method) and row.point]
    others = [row for row in table.rows if not is_subject(row.group.method) and row.point]
    if not ours or not others:
        return None
    what = f"every {title(is_subject)} row in accuracy, step time and peak of live tensors together"
    points = [row.point for row in ours if row.point]
    rivals = [o.name for o in others if o.point and all(better_everywhere(o.point, point) for point in points)]
    if rivals:
        return f"{listed(rivals)} {'is' if len(rivals) == 1 else 'are'} better than {what}."
    front = [_with_seeds(row) for row in ours if row.name in table.front]
    if not front:
        return f"No other row is better than {what}; yet no {title(is_subject)} row is on the Pareto front."
    on_it = f"{listed(front)} {'is' if len(front) == 1 else 'are'} on the Pareto front"
    return f"No other row is better than {what}; of the {title(is_subject)} rows, {on_it}."


def _with_seeds(row: Row) -> str:
    """The row's name, and that it is of one seed, which cannot tell a small difference from noise."""
    return row.name if len(row.accuracies) > 1 else f"{row.name} (one seed)"


def _memory_sentence(table: Table) -> str | None:
    """Names the rows, with peak memory and speed, that need less memory than the leanest of the rows judged."""
    leanest = _extreme(min, [row.measured(PEAK) for row in table.rows if is_subject(row.group.method)])
    others = [row for row in table.rows if not is_subject(row.group.method)]
    peaks = {row.name: peak for row in others if (peak := row.measured(PEAK)) is not None}
    if leanest is None or not peaks:
        return None
    less = sorted((row for row in others if peaks.get(row.name, leanest) < leanest), key=lambda row: peaks[row.name])
    if not less:
        return f"No other row needs less memory in a step than the leanest {title(is_subject)} row ({leanest:.0f} MiB)."
    rows = listed([f"{row.name} ({peaks[row.name]:.0f} MiB{_speed(row)})" for row in less])
    needs = "needs" if len(less) == 1 else "need"
    return f"{rows} {needs} less memory in a step than the leanest {title(is_subject)} row ({leanest:.0f} MiB)."


def _speed(row: Row) -> str:
    speed = row.ratio(STEP)
    return "" if speed is None else f", {speed:.2f}× as fast as the baseline"


def _extreme(choose: Callable, values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return choose(known) if known else None
