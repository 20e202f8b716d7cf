"""The sentences that say what the numbers show, for page, terminal and report.md, made from the numbers alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wasi.config.declared import is_subject, title
from wasi.config.files import select
from wasi.report.blocks import Block
from wasi.report.columns import ENERGY, FLOPS, INFERENCE, PEAK, PROCESS, STEP, VALIDATION, Cost
from wasi.report.comparison import Comparison
from wasi.report.fields import MOST_NAMES, listed, listed_some, ratio_text, signed, significant
from wasi.report.groups import Group
from wasi.report.options import unquotable
from wasi.report.origins import are_comparable
from wasi.report.page_rows import Row, rows_of
from wasi.report.ranking import NoFront, is_one_work, ranked, times_in_turns, why_no_front
from wasi.report.subspace_ablation import ablation_sentences

_EQUAL_WITHIN = 0.02  # accuracies pass for equal if the whole interval is no further from zero (two t-tests)
_CHEAPEST = 3  # so many of the cheapest rows are named
_SAVED = {
    PEAK: "less peak memory in a training step",
    PROCESS: "less memory of the whole process",
    STEP: "less time per training step",
    INFERENCE: "less time per inference",
    FLOPS: "fewer FLOPs per step",
    ENERGY: "less energy per training step",
}
_NOT_ONE_WORK = "They differ in batch or image size, so a step is not the same work in all of them"
_LOST = {cost: words.replace("less", "more").replace("fewer", "more") for cost, words in _SAVED.items()}
_MEANT = {
    "surrogate weights": "random ones with the singular values of pretrained ones",
    "synthetic images": "noise around a pattern per class",
}


@dataclass(frozen=True)
class Statement:
    """A sentence or two. The `tone` is `loud` if it must not be overlooked, `main` for the answer, else `plain`."""

    text: str
    tone: str = "plain"


def of_block(rows: Sequence[Row]) -> list[Statement]:
    """The statements about one model on one data set."""
    groups = [row.group for row in rows]
    found: list[Statement | None] = [
        _not_to_be_quoted(groups),
        _not_held_out(groups),
        _savings(rows) or _measured(rows),
        _front(rows),
        _cheapest(rows, PEAK, "Least peak memory in a training step"),
        _cheapest(rows, STEP, "Shortest training step"),
        _within_noise(rows),
        _differing(rows),
        *map(Statement, ablation_sentences(groups)),
    ]
    return [statement for statement in found if statement is not None]


def statements(block: Block) -> list[Statement]:
    """The statements about a block, for a text outside of the page."""
    return of_block(rows_of(block, first=0))


def _is_above(row: Row) -> bool:
    return row.comparison.verdict == "differs" and _difference(row) > 0


def _difference(row: Row) -> float:
    """The difference in accuracy; -inf without one, so that such a row is never the nearest."""
    found = row.comparison.accuracy_difference
    return -math.inf if found is None else found


def _nearness(row: Row) -> tuple[float, float]:
    """The key of the row nearest to vanilla: accuracy on validation images, as that on test images is quoted."""
    return row.group.validated, _difference(row)


def _saving(row: Row) -> tuple[float, float]:
    return row.comparison.ratio(PEAK) or 0.0, row.comparison.ratio(STEP) or 0.0


def _savings(rows: Sequence[Row]) -> Statement | None:
    """What the method that is judged saves, told of one of its rows; None if none of them has a vanilla.

    If rows cannot be told apart from vanilla in accuracy or are above it, it is the one that saves most, of those whose
    interval leaves no doubt, or else the one nearest to vanilla (on validation images). If all are below vanilla, the
    nearest is told, and the one that saves most of those that cannot be told apart from it. Without accuracies, it is
    the one that saves most.
    """
    subject = title(is_subject)
    ours = [one for one in rows if is_subject(one.group.method)]
    compared = [one for one in ours if one.comparison.of_vanilla]
    if not compared:
        return None
    known = [one for one in compared if one.comparison.verdict is not None]
    if not known:
        best = max(compared, key=_saving)
        name, costs = best.quoted_name, _costs(best, rows)
        return Statement(f"Compared with {_name(best.comparison.baseline, rows)}, {name} {costs}.", "main")
    equal = [one for one in known if one.comparison.verdict == "within noise" or _is_above(one)]
    spread = [one for one in known if one.comparison.p is not None]
    sure = [one for one in equal if _is_above(one) or not _doubt(one.comparison)]
    # With doubt about all, the row that saves most may well lie far below vanilla.
    best = max(sure, key=_saving) if sure else max(equal or spread or known, key=_nearness)
    name, vanilla, costs = best.quoted_name, _name(best.comparison.baseline, rows), _costs(best, rows)
    if equal:
        words = "lies above that of" if _is_above(best) else "cannot be told apart from that of"
        text = f"The accuracy of {name} {words} {vanilla} ({_difference_text(best)}), and it {costs}."
        if not _is_above(best):
            text += _doubt(best.comparison)
    elif spread:
        unjudged = [_with_points(one) for one in known if one.comparison.p is None]
        which = f"{subject} configuration that its seeds can judge" if unjudged else f"{subject} configuration"
        is_chosen = len(spread) > 1 and best.group.mean(VALIDATION) is not None
        by = " by validation accuracy" if is_chosen else ""
        text = f"No {which} keeps the accuracy of {vanilla}. Nearest{by} is {name} ({_difference_text(best)})"
        if (leaner := _as_near(best, spread)) is not best:
            text += f". Of those that cannot be told apart from it, {leaner.quoted_name} saves most"
            text += f" ({_difference_text(leaner)}): it {_costs(leaner, rows)}."
        else:
            text += f"; it {costs}."
        text += f" Not judged: {listed(unjudged)}." if unjudged else ""
    else:
        text = f"Compared with {vanilla}, {name} {costs}; accuracy {_difference_text(best)}."
        text += _without_test(best)
    return Statement(text, "main")


def _as_near(nearest: Row, others: Sequence[Row]) -> Row:
    """The row that saves most, of `nearest` and those that are as accurate by an interval that leaves no doubt."""

    def is_as_near(one: Row) -> bool:
        between = Comparison(one.group, nearest.group)
        return between.verdict == "within noise" and not _doubt(between)

    return max([nearest, *filter(is_as_near, others)], key=_saving)


def _measured(rows: Sequence[Row]) -> Statement | None:
    """The numbers of the most accurate row. Without accuracies that may be quoted it is the fastest row, or the leanest
    if step times do not compare."""
    if not is_one_work([row.group for row in rows]) and all(row.accuracy is None for row in rows):
        return Statement(f"{len(rows)} rows. {_NOT_ONE_WORK}, and no row stands for the others.", "main")
    timed = [run for row in rows for run in row.group.sources(STEP.metric)]
    by = STEP if timed and are_comparable(timed) else PEAK
    best = max(rows, key=lambda row: (row.accuracy or 0.0, -(row.cost(by) or math.inf), -row.key))
    lines = [
        f"{cost.name.lower()} {significant(value, 3)} {cost.unit_name}"
        for cost in (PEAK, STEP, INFERENCE)
        if (value := best.cost(cost)) is not None and not best.comparison.is_spoilt(cost)
    ]
    if best.accuracy is not None:
        lines.insert(0, f"{best.block.accuracy_title.lower()} {best.accuracy_text()}")
    if not lines:
        return None
    first = "Leanest is " if by is PEAK else "Fastest is "
    chosen = "" if len(rows) == 1 else "Most accurate is " if best.accuracy is not None else first
    return Statement(f"{chosen}{best.quoted_name}: {'; '.join(lines)}.{_without_saving(rows)}", "main")


def _without_saving(rows: Sequence[Row]) -> str:
    """A sentence on why no saving is stated of rows that are compared with no vanilla; "" if there are none."""
    others = [row.comparison for row in rows if not row.is_reference]
    if not others or any(comparison.of_vanilla for comparison in others):
        return ""
    named = next((comparison.baseline for comparison in others if comparison.is_named), None)
    if named is not None:
        which = f"{_name(named, rows)} (bench.baseline_recipe)"
        return f" No saving is stated, as rows are compared with {which}, not with vanilla."
    return " No saving is stated, for want of a vanilla run of the same model, data and device."


def _name(baseline: Group | None, rows: Sequence[Row]) -> str:
    """The name of the row that a baseline has."""
    return next((row.quoted_name for row in rows if row.group is baseline), "vanilla")


def _difference_text(one: Row) -> str:
    """The difference in accuracy as `−0.31 points, 95 % interval −1.10 to +0.48, 5 seeds`."""
    text = f"{_points(one)} points"
    pairing = one.comparison.pairing
    seeds = len(one.group.trained) if pairing is None else pairing.n
    if bounds := one.comparison.interval:
        text += ", 95 % interval {} to {}".format(*(signed(100 * bound) for bound in bounds))
    return text + (f", {seeds} seeds" if seeds > 1 else "")


def _doubt(comparison: Comparison) -> str:
    """A sentence on why accuracies within noise may still differ; "" if their interval leaves no doubt."""
    pairing = comparison.pairing
    if pairing is not None and pairing.without_scatter:  # within noise, so all differences are zero
        return " All seeds agree exactly, as happens with few seeds or test images."
    if comparison.interval is None:
        return " Without equal seeds there is no interval, so the two must not be called equal."
    low, high = comparison.interval
    if max(-low, high) > _EQUAL_WITHIN:
        return " So wide an interval shows little: more seeds are needed before the two are called equal."
    return ""


def _without_test(one: Row) -> str:
    """A sentence on why a difference was not tested."""
    if one.comparison.verdict == "n=1, no spread":
        return " One seed cannot tell such a difference from noise: repeat with several seeds before quoting it."
    if one.comparison.pairing is None:
        return " Accuracies that are the same for every seed show no noise to tell it from: repeat with more seeds."
    return " All seeds differ by just as much, as happens with few seeds or test images: repeat with more of them."


def _points(one: Row) -> str:
    return signed(100 * _difference(one))


def _costs(row: Row, rows: Sequence[Row]) -> str:
    """The costs beside vanilla's, as `takes 48% less peak memory in a training step (1.93×) and …`.

    Costs within noise, equal ones and spoilt times are named in brackets at the end. If costs are compared with another
    vanilla than the accuracy is, it is named.
    """
    comparison = row.comparison
    lines: list[str] = []
    others: dict[str, list[str]] = {"within noise": [], "the same": [], "not stated, as the machine was busy": []}
    noisy, equal, spoilt = others.values()
    for cost in _SAVED:
        ratio = comparison.ratio(cost)
        if ratio is None:
            continue
        if comparison.is_spoilt(cost):
            spoilt.append(cost.name.lower())
        elif comparison.within_noise(cost):
            noisy.append(cost.name.lower())
        elif abs(ratio - 1) < 0.005:
            equal.append(cost.name.lower())
        else:
            lines.append(f"{abs(1 - 1 / ratio):.0%} {(_SAVED if ratio > 1 else _LOST)[cost]} ({ratio_text(ratio)})")
    if not lines and not noisy and not equal:
        return "has no cost measured beside vanilla's" + (" but times of a busy machine" if spoilt else "")
    words = f"takes {listed(lines)}" if lines else "saves nothing"
    if comparison.nearest is not None:
        words += f" beside {_name(comparison.nearest, rows)}"
    rest = "; ".join(f"{listed(names)}: {how}" for how, names in others.items() if names)
    return words + (f" ({rest})" if rest else "")


def _front(rows: Sequence[Row]) -> Statement | None:
    """Names the rows on the Pareto front; of one seed beside rows of several, which may be there by luck, that too."""
    several = any(len(row.group.trained) > 1 for row in rows)
    marked = [
        row.quoted_name + (" (one seed)" if several and len(row.group.trained) == 1 else "")
        for row in rows if row.on_front
    ]  # fmt: skip
    if not marked:
        return _no_front([row.comparison for row in rows])
    text = f"Pareto-optimal in accuracy, step time and peak memory together: {listed(marked)}"
    judged = ranked([row.comparison for row in rows])
    without: dict[str, list[str]] = {"an accuracy": [], "a step time or peak memory": []}
    for row in rows:
        if row.comparison not in judged:
            without["an accuracy" if row.accuracy is None else "a step time or peak memory"].append(row.quoted_name)
    left_out = "; ".join(f"for want of {what}: {listed_some(names)}" for what, names in without.items() if names)
    return Statement(f"{text}." + (f" Not compared there, {left_out}." if left_out else ""))


def _no_front(comparisons: Sequence[Comparison]) -> Statement | None:
    """Why no row is on the front; None if fewer than two could be."""
    judged = ranked(comparisons)
    which = f"the {len(judged)} rows{' that could be on it' if len(judged) < len(comparisons) else ''}"
    sentences = {
        NoFront.BUSY: "No Pareto front: step times of a busy machine are not to be trusted.",
        NoFront.NOT_ONE_WORK: f"No Pareto front of {which}. {_NOT_ONE_WORK}.",
        NoFront.SEVERAL_MACHINES: "No Pareto front: step times are of several machines, devices or numbers of threads.",
    }
    reason = why_no_front(comparisons)
    return Statement(sentences[reason]) if reason in sentences else None


def _cheapest(rows: Sequence[Row], cost: Cost, words: str) -> Statement | None:
    """Names the rows of any method with the least memory or the shortest step, of at least three that compare.

    Args:
        words: what the cost of these rows is, as the sentence begins.
    """
    sources = [run for row in rows for run in row.group.sources(cost.metric)]
    if not is_one_work([row.group for row in rows]) or (cost.timed and not are_comparable(sources)):
        return None
    relative = times_in_turns([row.comparison for row in rows]) if cost is STEP else None
    known = sorted(
        (value, row.key, row.quoted_name)
        for row, value in zip(rows, relative or [row.cost(cost) for row in rows], strict=True)
        if value is not None
    )
    if relative is None:
        shown = [f"{significant(value, 3)} {cost.unit_name}" for value, _, _ in known]
    else:
        words += f", measured in turns with {_name(rows[0].comparison.costs_beside, rows)}'s"
        shown = [ratio_text(1 / value) for value, _, _ in known]
    if len(known) < 3 or shown[0] == shown[-1]:  # the latter: all rows cost the same
        return None
    amounts = [f"{name} ({amount})" for (_, _, name), amount in zip(known, shown, strict=True)][:_CHEAPEST]
    as_cheap = shown[_CHEAPEST:].count(shown[_CHEAPEST - 1])
    others = f", with {as_cheap} more row{'s' * (as_cheap > 1)} at {shown[_CHEAPEST - 1]}" if as_cheap else ""
    return Statement(f"{words}: {listed(amounts)}{others}.")


def _within_noise(rows: Sequence[Row]) -> Statement | None:
    """Names the rows within noise of vanilla's accuracy, which does not mean that they are equal."""
    judged = _beside_vanilla(rows)
    ones = [one for one in judged if one.comparison.verdict == "within noise"]
    if not ones:
        return None
    if len(ones) > MOST_NAMES:  # the table marks them
        text = f"{len(ones)} of {len(judged)} rows are within noise of vanilla's accuracy (≈ in the table)"
    else:
        named = f"{'is' if len(ones) == 1 else 'are'} {listed([_with_points(one) for one in ones])}"
        text = f"Within noise of vanilla's accuracy{_brackets(ones)} {named}"
    return Statement(f"{text}: no difference shown, nor ruled out.")


def _differing(rows: Sequence[Row]) -> Statement | None:
    judged = _beside_vanilla(rows)
    above = [one for one in judged if _is_above(one)]
    below = [one for one in judged if one.comparison.verdict == "differs" and one not in above]
    lines = [_on_side(side, ones, len(judged)) for side, ones in (("above", above), ("below", below)) if ones]
    return Statement(" ".join(lines)) if lines else None


def _beside_vanilla(rows: Sequence[Row]) -> list[Row]:
    """The rows whose accuracy was compared with a vanilla's, and not with that of another baseline."""
    return [one for one in rows if one.comparison.of_vanilla and one.comparison.verdict is not None]


def _on_side(side: str, ones: Sequence[Row], compared: int) -> str:
    """A sentence that names the rows above or below vanilla; of many it tells their number and the two farthest apart.

    Args:
        compared: the number of rows whose accuracy was compared with vanilla's.
    """
    if len(ones) <= MOST_NAMES:
        return f"Accuracy {side} vanilla's{_brackets(ones)}: {listed([_with_points(one) for one in ones])}."
    ordered = sorted(ones, key=lambda one: abs(_difference(one)))
    nearest, farthest = (_with_points(one) for one in (ordered[0], ordered[-1]))
    text = f"{len(ones)} of {compared} rows, from {nearest} to {farthest}"
    return f"Accuracy {side} vanilla's{_brackets([ordered[0], ordered[-1]])}: {text}."


def _with_points(one: Row) -> str:
    """The row's name and difference in accuracy as `wasi 0.8 (−0.31 points [−1.10, +0.48])`."""
    bounds = ", ".join(signed(100 * bound) for bound in one.comparison.interval or ())
    return f"{one.quoted_name} ({_points(one)} points{f' [{bounds}]' if bounds else ''})"


def _brackets(ones: Sequence[Row]) -> str:
    """What the brackets of `_with_points` mean; "" if none of the rows has any."""
    return " [95 % interval]" if any(one.comparison.interval for one in ones) else ""


def _not_held_out(groups: Sequence[Group]) -> Statement | None:
    """A warning if the validation images are the test images."""
    if not any(select(group.config, "dataset.val_source") == "test" and group.is_quotable for group in groups):
        return None
    text = (
        "Nothing is held out (dataset.val_source=test): learning rates or epochs that were chosen by validation "
        "accuracy were chosen on the very images that test accuracy is quoted of."
    )
    return Statement(text, "loud")


def _not_to_be_quoted(groups: Sequence[Group]) -> Statement | None:
    """A warning if accuracies are left out as they mean nothing."""
    reasons = dict.fromkeys(reason for group in groups for reason in unquotable(group.config))
    if not reasons:
        return None
    meant = " and ".join(f"{reason} ({_MEANT[reason]})" for reason in reasons)
    text = "time, memory and FLOPs are as with real ones, accuracy says nothing"
    return Statement(f"{meant[0].upper()}{meant[1:]}: {text}. None is shown, and none may be quoted.", "loud")
