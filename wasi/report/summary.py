"""What a block's table says, in plain words, and which of its rows are on the Pareto front."""

from collections.abc import Sequence
from dataclasses import dataclass

from wasi.report.blocks import Block, row_names
from wasi.report.columns import PEAK, STEP, Cost
from wasi.report.comparison import Comparison
from wasi.report.groups import Group
from wasi.report.options import select, unquotable
from wasi.report.origins import are_comparable
from wasi.report.pareto import on_front
from wasi.report.subspace_ablation import ablation_sentences

_MEANT = {
    "surrogate weights": "random ones with the singular values of pretrained ones",
    "synthetic images": "noise around a pattern per class",
}


def front_of(comparisons: Sequence[Comparison]) -> list[bool]:
    """For each row, whether it is on the Pareto front of accuracy, step time and peak memory.

    If all steps were measured in turns with one baseline, their times count relative to the baseline's, as single times
    drift with the machine. No row is on the front if there is only one, if `is_one_work` does not hold, or if times
    come from several machines or a busy one.
    """
    timed = [run for comparison in comparisons for run in comparison.group.sources(STEP.metric)]
    if len(comparisons) < 2 or not are_comparable(timed) or not is_one_work([c.group for c in comparisons]):
        return [False] * len(comparisons)
    times = times_in_turns(comparisons) or [comparison.group.mean(STEP.metric) for comparison in comparisons]
    return on_front([_point(one.group, time) for one, time in zip(comparisons, times, strict=True)])


def is_one_work(groups: Sequence[Group]) -> bool:
    """Whether steps of all groups have the same number of images of the same size, so that their costs compare."""
    sizes = ("dataset.batch_size", "dataset.image_size")
    return len({tuple(group.options.get(size) for size in sizes) for group in groups}) <= 1


def one_seed_among(group: Group, groups: Sequence[Group]) -> str:
    """` (one seed)` for a row of one seed beside rows of several, as its accuracy may be luck; else ""."""
    return " (one seed)" if len(group.trained) == 1 and any(len(other.trained) > 1 for other in groups) else ""


def times_in_turns(comparisons: Sequence[Comparison], cost: Cost = STEP) -> list[float | None] | None:
    """Each row's time (of a step, or another timed cost) divided by the baseline's, None for a row without one.

    The whole is None unless every time was measured in turns with one baseline's.
    """
    if len({one.costs_beside for one in comparisons}) != 1:
        return None
    found = [_time_in_turns(one, cost) for one in comparisons]
    pairs = list(zip(comparisons, found, strict=True))
    compared = any(time for one, time in pairs if not one.is_own_baseline)
    alone = any(time is None and one.group.mean(cost.metric) is not None for one, time in pairs)
    return found if compared and not alone else None


def _time_in_turns(comparison: Comparison, cost: Cost) -> float | None:
    if comparison.is_own_baseline:
        return None if comparison.group.mean(cost.metric) is None else 1.0
    ratio = comparison.in_turns(cost)
    return None if ratio is None else 1 / ratio["p50"]


@dataclass(frozen=True)
class CostAxis:
    """An axis of figures with a cost; `relative` says that values are divided by the baseline's."""

    title: str
    cost: Cost
    relative: bool = False

    def value(self, comparison: Comparison) -> float | None:
        """A row's place on the axis; None for a row without the cost."""
        return _time_in_turns(comparison, self.cost) if self.relative else comparison.group.cost(self.cost)


def cost_axis(cost: Cost, comparisons: Sequence[Comparison]) -> CostAxis:
    """The axis of a cost for the rows of a block. Times that were all measured in turns with one baseline are relative
    to it, as in `front_of`."""
    baseline = comparisons[0].costs_beside
    if not cost.timed or baseline is None or times_in_turns(comparisons, cost) is None:
        return CostAxis(cost.axis, cost)
    name = baseline.recipe or baseline.method
    return CostAxis(f"{cost.name} ({name} = 1)", cost, relative=True)


def summary(block: Block) -> list[str]:
    """The sentences above a table: doubts about accuracies, which rows differ from vanilla in accuracy, which are on
    the Pareto front, and whether the subspace iteration is needed. What was not measured has no sentence."""
    names, comparisons = row_names(block), block.comparisons
    findings = [*_accuracy(names, comparisons), *_front(names, comparisons), *ablation_sentences(block.groups)]
    return [*doubts_about_accuracy(block.groups), *findings]


def doubts_about_accuracy(groups: Sequence[Group]) -> list[str]:
    """The sentences that a reader must know before looking at accuracies."""
    return [*_not_to_be_quoted(groups), *_not_held_out(groups)]


def _not_held_out(groups: Sequence[Group]) -> list[str]:
    """A sentence if the validation images are the test images; else none."""
    if not any(select(group.config, "dataset.val_source") == "test" and group.is_quotable for group in groups):
        return []
    return [
        "Nothing is held out (dataset.val_source=test): learning rates or epochs that were chosen by validation "
        "accuracy were chosen on the very images that test accuracy is quoted of."
    ]


def _not_to_be_quoted(groups: Sequence[Group]) -> list[str]:
    """A sentence if accuracies are left out as they mean nothing; else none."""
    reasons = dict.fromkeys(reason for group in groups for reason in unquotable(group.config))
    meant = " and ".join(f"{reason} ({_MEANT[reason]})" for reason in reasons)
    text = "time, memory and FLOPs are as with real ones, accuracy says nothing"
    return [f"{meant[0].upper()}{meant[1:]}: {text}. None is shown, and none may be quoted."] if reasons else []


def _accuracy(names: list[str], comparisons: list[Comparison]) -> list[str]:
    kinds: dict[str, list[str]] = {
        "above vanilla": [],
        "below vanilla": [],
        "not told apart from vanilla by their seeds": [],
    }
    above, below, alike = kinds.values()
    intervals = []
    for name, comparison in zip(names, comparisons, strict=True):
        difference = comparison.accuracy_difference
        if difference is not None and comparison.of_vanilla and comparison.p is not None:
            side = alike if comparison.verdict == "within noise" else above if difference > 0 else below
            interval = "" if comparison.pairing is None else comparison.pairing.interval_in_points
            intervals.append(interval)
            side.append(f"{name} ({100 * difference:+.2f} points{interval})")
    lines = [f"{', '.join(found)} {words}" for words, found in kinds.items() if found]
    meant = " (mean difference over seeds [its 95 % interval])" if any(intervals) else ""
    return [f"In accuracy{meant}: {'; '.join(lines)}."] if lines else []


def _front(names: list[str], comparisons: list[Comparison]) -> list[str]:
    groups = [comparison.group for comparison in comparisons]
    named = [name + one_seed_among(group, groups) for name, group in zip(names, groups, strict=True)]
    marked = [name for name, mark in zip(named, front_of(comparisons), strict=True) if mark]
    return [f"On the Pareto front of accuracy, step time and peak memory: {'; '.join(marked)}."] if marked else []


def _point(group: Group, time: float | None) -> tuple[float, float, float] | None:
    accuracy, peak = group.quoted, group.mean(PEAK.metric)
    return None if accuracy is None or time is None or peak is None else (accuracy, -time, -peak)
