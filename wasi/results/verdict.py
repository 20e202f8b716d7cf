"""What a table says, in sentences made from its numbers: the targets for the method that is judged, and rivals."""

from collections.abc import Callable

from wasi.methods.declared import is_rival, is_subject, title
from wasi.report.pareto import better_everywhere
from wasi.results.rows import INFERENCE, PEAK, STEP, Comparison, Row

POINTS_BELOW, STEP_SPEED, SHARE_OF_LORA, INFERENCE_SPEED = 1.5, 1.3, 0.7, 1.3
TARGETS = (
    f"at most {POINTS_BELOW} points below {{baseline}}, a step at least {STEP_SPEED}× as fast as {{baseline}}'s, "
    f"under train.memory=lean at most {SHARE_OF_LORA} of the least peak of a lean {{rival}} with unquantized "
    f"weights, and inference at least {INFERENCE_SPEED}× as fast as the fastest plain {{rival}}'s"
)


def sentences(comparison: Comparison) -> list[str]:
    """On the four targets at once, on rows that beat every row judged, and on rows that need less memory than any of
    these; what cannot be judged says why.

    Two of the targets are about rivals: a table without any has no sentence on them.
    """
    found = [_targets_sentence(comparison), _rivals_sentence(comparison), _memory_sentence(comparison)]
    return [sentence for sentence in found if sentence]


def _targets_sentence(comparison: Comparison) -> str | None:
    candidates = [row for row in comparison.rows if is_subject(row.method) and not row.is_lean]
    rivals = [row for row in comparison.rows if is_rival(row.method)]
    if comparison.baseline is None or not candidates or not rivals:
        return None
    wanted = TARGETS.format(baseline=comparison.baseline.name, rival=title(is_rival))
    missed = {row.name: _missed(row, comparison) for row in candidates}
    meeting = [name for name, misses in missed.items() if not misses]
    unknown = sorted({word for misses in missed.values() for word, met in misses.items() if met is None})
    if unknown and not meeting:
        return f"The four targets ({wanted}) cannot be judged: not measured for every row: {', '.join(unknown)}."
    if meeting:
        rows = f"{_listed(meeting)} {'meets' if len(meeting) == 1 else 'meet'}"
        doubts = "".join(_doubt(row, comparison) for row in candidates if row.name in meeting)
        return f"{rows} the four targets at once: {wanted}.{doubts}"
    nearest = min(missed, key=lambda name: len(missed[name]))
    misses = _listed(list(missed[nearest]))
    return f"No {title(is_subject)} row meets the four targets at once ({wanted}); {nearest} misses {misses}."


def _doubt(row: Row, comparison: Comparison) -> str:
    """A sentence where the mean meets the target of accuracy and its interval reaches beyond."""
    difference = comparison.difference(row)
    if difference is None or difference.low is None or difference.low >= -POINTS_BELOW / 100:
        return ""
    mean, low = 100 * difference.difference, 100 * difference.low
    told = f"{row.name}'s mean difference ({mean:+.2f}); its 95 % interval reaches {low:+.2f}"
    return f" {POINTS_BELOW} points hold of {told}."


def _missed(row: Row, comparison: Comparison) -> dict[str, bool | None]:
    """The targets that the row misses: False; or that cannot be judged: None."""
    twin = next((other for other in comparison.rows if _is_lean_twin(other, row)), None)
    difference = comparison.difference(row)
    rivals = [other for other in comparison.rows if is_rival(other.method)]
    peaks = [rival.measured(PEAK) for rival in rivals if rival.is_lean and rival.base is None]
    speeds = [rival.ratio(INFERENCE) for rival in rivals if not rival.is_lean]
    least, fastest = _extreme(min, peaks), _extreme(max, speeds)
    judged = {
        "accuracy": _at_least(None if difference is None else difference.difference, -POINTS_BELOW / 100),
        "step time": _at_least(row.ratio(STEP), STEP_SPEED),
        "memory": _at_least(least and SHARE_OF_LORA * least, None if twin is None else twin.measured(PEAK)),
        "inference time": _at_least(row.ratio(INFERENCE), fastest and INFERENCE_SPEED * fastest),
    }
    return {name: met for name, met in judged.items() if not met}


def _at_least(value: float | None, bound: float | None) -> bool | None:
    return None if value is None or bound is None else value >= bound


def _rivals_sentence(comparison: Comparison) -> str | None:
    ours = [row for row in comparison.rows if is_subject(row.method) and row.point]
    others = [row for row in comparison.rows if not is_subject(row.method) and row.point]
    if not ours or not others:
        return None
    what = f"every {title(is_subject)} row in accuracy, step time and peak of live tensors together"
    points = [row.point for row in ours if row.point]
    rivals = [o.name for o in others if o.point and all(better_everywhere(o.point, point) for point in points)]
    if rivals:
        return f"{_listed(rivals)} {'is' if len(rivals) == 1 else 'are'} better than {what}."
    front = [row.name for row in ours if row.name in comparison.front]
    without = f"; yet no {title(is_subject)} row is on the Pareto front"
    tail = f"; on the Pareto front: {_listed(front)}" if front else without
    return f"No other row is better than {what}{tail}."


def _memory_sentence(comparison: Comparison) -> str | None:
    """Rows, with their peak and speed, that need less memory than the leanest of the rows judged."""
    leanest = _extreme(min, [row.measured(PEAK) for row in comparison.rows if is_subject(row.method)])
    others = [row for row in comparison.rows if not is_subject(row.method)]
    peaks = {row.name: peak for row in others if (peak := row.measured(PEAK)) is not None}
    if leanest is None or not peaks:
        return None
    less = sorted((row for row in others if peaks.get(row.name, leanest) < leanest), key=lambda row: peaks[row.name])
    if not less:
        return f"No other row needs less memory in a step than the leanest {title(is_subject)} row ({leanest:.0f} MiB)."
    rows = _listed([f"{row.name} ({peaks[row.name]:.0f} MiB{_speed(row)})" for row in less])
    needs = "needs" if len(less) == 1 else "need"
    return f"{rows} {needs} less memory in a step than the leanest {title(is_subject)} row ({leanest:.0f} MiB)."


def _speed(row: Row) -> str:
    speed = row.ratio(STEP)
    return "" if speed is None else f", {speed:.2f}× as fast as the baseline"


def _is_lean_twin(other: Row, row: Row) -> bool:
    return other.is_lean and other.differs_by_memory_policy_only(row)


def _extreme(choose: Callable, values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return choose(known) if known else None


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
