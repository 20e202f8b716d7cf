"""What a block's table says, in plain words, and which of its rows are on the Pareto front."""

from wasi.report.baseline import Comparison
from wasi.report.columns import PEAK, STEP
from wasi.report.groups import Group
from wasi.report.needed import needed_sentences
from wasi.report.options import epsilon_label
from wasi.report.pareto import on_front
from wasi.report.provenance import one_machine


def front_of(groups: list[Group]) -> list[bool]:
    """Per group whether no other is at least as good in accuracy, step time and peak memory, and better in one.

    None is, where times come from several machines, or for a single group.
    """
    if len(groups) < 2 or not one_machine([run for group in groups for run in group.sources(STEP.metric)]):
        return [False] * len(groups)
    return on_front([_point(group) for group in groups])


def summary(comparisons: list[Comparison]) -> list[str]:
    """What the table says: which rows differ from vanilla in accuracy, which are on the Pareto front, and whether the
    subspace iteration is needed. What was not tested or measured has no sentence."""
    groups = [comparison.group for comparison in comparisons]
    return [*_accuracy(comparisons), *_front(comparisons), *needed_sentences(groups)]


def _accuracy(comparisons: list[Comparison]) -> list[str]:
    tested = [c for c in comparisons if c.of_vanilla and c.p is not None]
    if not tested:
        return []
    kinds = {
        "above vanilla": [c for c in tested if c.verdict == "differs" and c.accuracy_difference > 0],
        "below vanilla": [c for c in tested if c.verdict == "differs" and c.accuracy_difference < 0],
        "not told apart from vanilla by their seeds": [c for c in tested if c.verdict == "within noise"],
    }
    told = [f"{', '.join(map(_with_points, found))} {words}" for words, found in kinds.items() if found]
    return [f"In accuracy: {'; '.join(told)}."]


def _front(comparisons: list[Comparison]) -> list[str]:
    marks = front_of([comparison.group for comparison in comparisons])
    names = [_name(c) for c, marked in zip(comparisons, marks, strict=True) if marked]
    return [f"On the Pareto front of accuracy, step time and peak memory: {', '.join(names)}."] if names else []


def _name(comparison: Comparison) -> str:
    group = comparison.group
    return group.recipe or " ".join(filter(None, [group.method, epsilon_label(group.config)]))


def _with_points(comparison: Comparison) -> str:
    return f"{_name(comparison)} ({100 * comparison.accuracy_difference:+.2f} points)"


def _point(group: Group) -> tuple[float, float, float] | None:
    point = group.mean(group.accuracy), group.mean(STEP.metric), group.mean(PEAK.metric)
    return None if None in point else (point[0], -point[1], -point[2])
