"""Which rows of a block are on the Pareto front, and whether and on what axis their costs compare."""

from collections.abc import Sequence
from dataclasses import dataclass

from wasi.pareto import on_front
from wasi.report.columns import PEAK, STEP, Cost
from wasi.report.comparison import Comparison
from wasi.report.groups import Group
from wasi.report.origins import are_comparable


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


def _point(group: Group, time: float | None) -> tuple[float, float, float] | None:
    accuracy, peak = group.quoted, group.mean(PEAK.metric)
    return None if accuracy is None or time is None or peak is None else (accuracy, -time, -peak)
