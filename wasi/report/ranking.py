"""Which rows of a block are on the Pareto front, and whether and on what axis their costs compare."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from wasi.pareto import on_front
from wasi.report.columns import PEAK, STEP, Cost
from wasi.report.comparison import Comparison
from wasi.report.groups import Group
from wasi.report.origins import one_machine, was_busy


class NoFront(Enum):
    """Why no row of a block is on the Pareto front."""

    SINGLE = auto()  # fewer than two rows could be on it
    BUSY = auto()  # other processes have spoilt step times
    NOT_ONE_WORK = auto()  # `is_one_work` does not hold
    SEVERAL_MACHINES = auto()  # step times are of several machines, devices or numbers of threads


def front_of(comparisons: Sequence[Comparison]) -> list[bool]:
    """For each row, whether it is on the Pareto front of accuracy, step time and peak memory.

    If all steps of `ranked` rows were measured in turns with one baseline, their times count relative to the
    baseline's, as single times drift with the machine.
    """
    if why_no_front(comparisons) is not None:
        return [False] * len(comparisons)
    judged = ranked(comparisons)
    times = times_in_turns(judged) or [comparison.group.mean(STEP.metric) for comparison in judged]
    points = {one.group: _point(one.group, time) for one, time in zip(judged, times, strict=True)}
    return on_front([points.get(comparison.group) for comparison in comparisons])


def why_no_front(comparisons: Sequence[Comparison]) -> NoFront | None:
    """Why no row is on the front; None if there is a front. It is a matter of the `ranked` rows alone."""
    groups = [comparison.group for comparison in ranked(comparisons)]
    timed = [run for group in groups for run in group.sources(STEP.metric)]
    reasons = {
        NoFront.SINGLE: len(groups) < 2,
        NoFront.BUSY: was_busy(timed),
        NoFront.NOT_ONE_WORK: not is_one_work(groups),
        NoFront.SEVERAL_MACHINES: not one_machine(timed),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def ranked(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The rows that can be on the front: with a step time, a peak, and an accuracy that may be quoted."""
    return [one for one in comparisons if None not in (one.group.quoted, one.group.cost(STEP), one.group.cost(PEAK))]


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
