"""Chooses the row that a group is compared with (a vanilla, if there is one), and compares the two.

A vanilla is a row of a method that is a `reference`. Two rows are comparable if they agree in model, data and device,
or where one was only benchmarked, in those of their options that a step depends on. The first rule that applies
decides:

1. A comparable row of the recipe `bench.baseline_recipe`, if the group names one: of several the one with most seeds,
   of these the most accurate on validation images. Costs are compared with that of these rows that was benchmarked in
   turns with the group.
2. For a vanilla that saves memory (`MEMORY_POLICY`): the first comparable plain vanilla on its hardware that differs
   from it in nothing else, or itself.
3. For a plain vanilla: of the comparable plain ones on its hardware, itself included, the best is the most accurate one
   on validation images, those with an optimizer of torch before all others. It is compared with itself if it has the
   best one's optimizer, and otherwise with the best one.
4. For another method: the comparable vanilla that shares most options, called `own`. Those of the method do not count,
   and neither does its scope. Of several the first is taken by equal scope, equal `method.train_rest`, equal hardware,
   accuracy on validation images. Accuracy is then compared with the most accurate, on validation images, of `own` and
   the vanillas that differ from it in optimizer and schedule alone and have a validation accuracy for each of its
   seeds; of the same vanilla on several machines, with that on the group's. Costs are compared with the same row,
   unless `own` alone was benchmarked in turns with the group or, where that is alike for both, timed on one machine
   with it.
5. Without any such vanilla: the first earlier row, of the same method, scope and rank labels, that is comparable and
   differs in a single option; else none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from wasi.config.declared import is_reference
from wasi.config.files import select
from wasi.config.relevance import MEMORY_POLICY
from wasi.report.benchmarks import decides_costs, step_options
from wasi.report.columns import COSTS, PAPER, STEP, VALIDATION, Cost
from wasi.report.groups import Group, identity, unlike
from wasi.report.load import Run
from wasi.report.options import result_options, show_option
from wasi.report.origins import one_machine, was_busy
from wasi.report.statistics import SIGNIFICANCE, Paired, has_scatter, welch_p

_NO_VANILLA = "no completed vanilla run with the same model, data and device"
_UNPAIRED = "other seeds than those of the row that it is compared with: tested unpaired (Welch's t-test), no interval"
_SHARED = "difference over the {} that both rows have, of {}"
_ALIKE = "the difference is the same for all {} seeds, which gives a t-test no scatter: neither interval nor p"
_OPTIMIZATION = ("optimizer.", "scheduler.")
_MUST_AGREE = ("model.", "dataset.", "device.")


@dataclass(frozen=True)
class Comparison:
    """A group beside its baseline. Ratios above 1 mean that the group is better.

    `baseline` is the row that the rules above choose: of the recipe that is named, else a vanilla, else the first row
    that differs in a single option, else None. `nearest` is another vanilla, whose costs were measured under the
    group's conditions where the baseline's were not.
    """

    group: Group
    baseline: Group | None
    nearest: Group | None = None

    @property
    def costs_beside(self) -> Group | None:
        """The row that costs are compared with: `nearest` if there is one, else `baseline`."""
        return self.nearest or self.baseline

    @property
    def is_own_baseline(self) -> bool:
        """Whether the group is the baseline itself, and so compared with no other row."""
        return self.baseline is self.group

    @property
    def is_named(self) -> bool:
        """Whether the baseline is of the recipe `bench.baseline_recipe`."""
        named = select(self.group.config, "bench.baseline_recipe")
        return bool(named) and self.baseline is not None and self.baseline.recipe == named

    @property
    def of_vanilla(self) -> bool:
        """Whether the baseline is a vanilla."""
        return self.baseline is not None and is_reference(self.baseline.method)

    @cached_property
    def accuracy_difference(self) -> float | None:
        """The group's accuracy minus the baseline's: over equal seeds if there is a `pairing`, else of the means.

        None if one of the two has no accuracy, or one that must not be quoted.
        """
        if self.pairing is not None:
            return self.pairing.difference
        return None if self._accuracies is None else self._accuracies[0] - self._accuracies[1]

    @cached_property
    def p(self) -> float | None:
        """The p-value of equal accuracies: paired by seed if there is a `pairing`, else by Welch's t-test."""
        if self.pairing is not None:
            return self.pairing.p
        if self.baseline is None or self._accuracies is None:
            return None
        return welch_p(self.group.values(self.group.accuracy), self.baseline.values(self.group.accuracy))

    @cached_property
    def pairing(self) -> Paired | None:
        """The difference of accuracies seed by seed; None unless one side has all seeds of the other."""
        if self.baseline is None or self._accuracies is None:
            return None
        ours, theirs = self.group.by_seed(self.group.accuracy), self.baseline.by_seed(self.group.accuracy)
        nested = ours.keys() <= theirs.keys() or theirs.keys() <= ours.keys()
        return self.group.minus(self.baseline) if nested else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of `accuracy_difference`; None without a `pairing`, or if that has none."""
        return None if self.pairing is None else self.pairing.interval

    @property
    def is_unpaired(self) -> bool:
        """Whether accuracies are tested without being paired by seed."""
        return self.p is not None and self.pairing is None

    @property
    def verdict(self) -> str | None:
        """On accuracy: `differs`, `within noise`, `n=1, no spread` or `no spread`; None without a difference."""
        if self.accuracy_difference is None:
            return None
        if self.p is None:
            sides = (self.group, self.baseline)
            return "n=1, no spread" if any(s and len(s.values(s.accuracy)) == 1 for s in sides) else "no spread"
        return "differs" if self.p < SIGNIFICANCE else "within noise"

    def ratio(self, cost: Cost) -> float | None:
        """The other row's cost divided by the group's; None if the two were not measured under equal conditions."""
        if (measured := self.in_turns(cost)) is not None:
            return measured["p50"]
        other = self.costs_beside
        pair = self._means(other, cost.metric)
        if other is None or pair is None or not pair[0]:
            return None
        if cost.timed and not one_machine(self._sources(cost)):
            return None
        if cost.of_process and len({run.is_bench for run in self._sources(cost)}) > 1:
            return None
        if cost is PAPER and self.group.scope != other.scope:
            return None
        return pair[1] / pair[0]

    def in_turns(self, cost: Cost) -> dict[str, float] | None:
        """The ratio of a benchmark that has measured the group in turns with its baseline, as in `Group.in_turns`.

        None if there is no such benchmark, or if its baseline was another row than `costs_beside`, whatever its method.
        """
        if self.costs_beside is None or self.is_own_baseline:
            return None
        return self.group.in_turns(cost) if _benchmarked_with(self.group, self.costs_beside) else None

    def within_noise(self, cost: Cost) -> bool:
        """Whether a ratio of 1 lies in the benchmark's interval or, without one, is compatible with the spreads.

        Costs that are all equal, as counted ones often are, have no noise: they are the same.
        """
        if (measured := self.in_turns(cost)) is not None:
            return has_width(measured) and measured["low"] <= 1 <= measured["high"]
        if self.costs_beside is None or self.ratio(cost) is None:
            return False
        ours, theirs = self.group.values(cost.metric), self.costs_beside.values(cost.metric)
        p = welch_p(ours, theirs)
        return p is not None and p >= SIGNIFICANCE and has_scatter([*ours, *theirs])

    def is_spoilt(self, cost: Cost) -> bool:
        """Whether the cost is a time, and the machine was busy when the group or the other row was timed."""
        return cost.timed and was_busy(self._sources(cost))

    @property
    def _accuracies(self) -> tuple[float, float] | None:
        """Both mean accuracies. Model and data are the same, so that both may be quoted or neither."""
        return self._means(self.baseline, self.group.accuracy) if self.group.is_quotable else None

    def _sources(self, cost: Cost) -> list[Run]:
        """The runs and benchmarks that the cost of the group and of the other row is from."""
        sides = (self.group, self.costs_beside)
        return [run for side in sides if side is not None for run in side.sources(cost.metric)]

    def _means(self, other: Group | None, metric: str) -> tuple[float, float] | None:
        if other is None or self.is_own_baseline:
            return None
        ours, theirs = self.group.mean(metric), other.mean(metric)
        return None if ours is None or theirs is None else (ours, theirs)

    @cached_property
    def remarks(self) -> list[str]:
        """Remarks for the reader on the choice of the baseline and on how differences to it are tested."""
        return [*self._about_baseline(), *self._about_seeds()]

    def _about_seeds(self) -> list[str]:
        if self.is_unpaired:
            return [_UNPAIRED]
        if self.baseline is None or self.pairing is None:
            return []
        most = max(len(side.by_seed(self.group.accuracy)) for side in (self.group, self.baseline))
        untested = self.pairing.without_scatter and self.pairing.p is None
        lines = [_ALIKE.format(self.pairing.n)] if untested else []
        shared = f"{self.pairing.n} seed{'s' * (self.pairing.n > 1)}"
        return [*lines, _SHARED.format(shared, most)] if self.pairing.n < most else lines

    def _about_baseline(self) -> list[str]:
        if self.baseline is None:
            return [_NO_VANILLA]
        if self.is_own_baseline:
            return []
        if self.is_named:
            return self._about_costs()
        if not self.of_vanilla:
            (key,) = unlike(self.group, self.baseline)
            other = f"{_as_given(key)}={show_option(key, self.baseline.options.get(key))}"
            return [f"no vanilla to compare with; compared with {self.group.method} of {other}, alike in all else"]
        others = _others(self.baseline, _differences(self.group, self.baseline))
        lines = [f"compared with a vanilla of another {others}"] if others else []
        lines += self._about_costs()
        timed = [cost for cost in COSTS if cost.timed and self._means(self.costs_beside, cost.metric)]
        if any(self.in_turns(cost) is None and not one_machine(self._sources(cost)) for cost in timed):
            lines.append("measured on another machine or device or with other threads than vanilla: no ratio of times")
        return lines

    def _about_costs(self) -> list[str]:
        if self.baseline is None or self.nearest is None:
            return []
        row, others = self.nearest.recipe or "a vanilla", _others(self.nearest, unlike(self.nearest, self.baseline))
        which = f"of another {others}" if others else f"on {self.nearest.hardware}"
        return [f"costs compared with {row} {which}, measured under the same conditions"]


def has_width(ratio: Mapping[str, float]) -> bool:
    """Whether a benchmark's ratio has a 95 % interval, and not one of a single number, as that of a counted cost."""
    return "low" in ratio and ratio["low"] < ratio["high"]


def compare(groups: list[Group]) -> list[Comparison]:
    """One comparison for each of the groups, which are of one model on one data set, in the same order."""
    return [_compared(group, groups) for group in groups]


def _compared(group: Group, groups: list[Group]) -> Comparison:
    """The group's comparison by the rules above.

    The best vanilla is chosen on validation images, as choosing by the test images that are then quoted would favour
    whichever was luckiest there.
    """
    if named := _of_named_recipe(group, groups):
        return _with_costs_beside(group, named[0], named)
    own = _vanilla_for(group, groups)
    if own is None:
        return Comparison(group, _twin_of(group, groups))
    if is_reference(group.method):
        return Comparison(group, own)
    alike = [g for g in groups if is_reference(g.method) and _is_optimized_otherwise(g, own)]
    seeds = set(own.by_seed(VALIDATION))
    alike = [g for g in alike if seeds <= g.by_seed(VALIDATION).keys()]  # few seeds may be best by luck
    best = max([own, *alike], key=lambda vanilla: vanilla.validated)
    twins = [best, *(g for g in alike if not unlike(g, best))]  # the same, measured on another machine
    best = next((g for g in twins if g.hardware == group.hardware), best)
    return _with_costs_beside(group, best, [best, own])


def _with_costs_beside(group: Group, baseline: Group, rows: list[Group]) -> Comparison:
    """The comparison with a baseline, its costs with that of the rows that was measured most like the group."""
    if baseline is group:
        return Comparison(group, group)
    others = (row for row in rows if row is not group)
    beside = max(others, key=lambda row: (_benchmarked_with(group, row), _timed_like(group, row)))
    return Comparison(group, baseline, None if beside is baseline else beside)


def _is_optimized_otherwise(a: Group, b: Group) -> bool:
    different = unlike(a, b)
    return bool(different) and all(key.startswith(_OPTIMIZATION) for key in different)


def _benchmarked_with(group: Group, other: Group) -> bool:
    """Whether a benchmark has measured a training step of the two in turns."""
    baseline = None if group.bench is None else group.bench.baseline
    return baseline is not None and step_options(result_options(baseline.config)) == step_options(other.options)


def _timed_like(group: Group, other: Group) -> bool:
    """Whether steps of both were timed, on one machine."""
    ours, theirs = group.sources(STEP.metric), other.sources(STEP.metric)
    return bool(ours and theirs) and one_machine([*ours, *theirs])


def _vanilla_for(group: Group, groups: list[Group]) -> Group | None:
    """The row of rules 2 and 3 or `own` of rule 4; None where rule 5 is left."""
    candidates = [g for g in groups if is_reference(g.method) and _comparable(g, group)]
    if is_reference(group.method):
        here = (g for g in candidates if g.hardware == group.hardware)
        if not _is_plain(group):
            return next((g for g in here if _is_plain(g) and _differences(group, g) <= set(MEMORY_POLICY)), group)
        best = max(filter(_is_plain, here), key=_preference)
        return group if _optimizer(best) == _optimizer(group) else best
    return min(candidates, key=lambda g: _distance(group, g), default=None)


def _optimizer(group: Group) -> str:
    return str(group.options.get("optimizer._target_"))


def _preference(vanilla: Group) -> tuple[bool, float]:
    """The key for the best vanilla: with an optimizer of torch, then by accuracy on validation images.

    A memory-saving optimizer (GaLore, say) is to be compared with an ordinary one, even with a less accurate one.
    """
    return _optimizer(vanilla).startswith("torch.optim."), vanilla.validated


def _of_named_recipe(group: Group, groups: list[Group]) -> list[Group]:
    """The rows of rule 1, the baseline first."""
    recipe = select(group.config, "bench.baseline_recipe")
    found = [g for g in groups if recipe and g.recipe == recipe and _comparable(g, group)]
    return sorted(found, key=lambda g: (-len(g.trained), -g.validated))


def _twin_of(group: Group, groups: list[Group]) -> Group | None:
    """The first row before this one with the same labels that differs in a single option."""
    before = groups[: groups.index(group)]
    alike = (g for g in before if identity(g) == identity(group) and _comparable(g, group))
    return next((g for g in alike if len(unlike(g, group)) == 1), None)


def _others(vanilla: Group, keys: set[str]) -> str:
    """The options with the vanilla's values: `optimizer.lr (0.05)`.

    The row's own values are in its name, columns or details. Without them, rows share the remark.
    """
    return ", ".join(f"{_as_given(key)} ({show_option(key, vanilla.options.get(key))})" for key in sorted(keys))


def _as_given(key: str) -> str:
    """The option as one gives it on the command line: `optimizer` for `optimizer._target_`."""
    return key.removesuffix("._target_")


def _comparable(a: Group, b: Group) -> bool:
    """Whether model, data and device agree; if one was only benchmarked, as far as a training step depends on them."""
    return not any(key.startswith(_MUST_AGREE) for key in _unlike_options(a, b))


def _unlike_options(a: Group, b: Group) -> set[str]:
    """The options in which two groups differ and that can change what was measured of both."""
    only_steps = not (a.trained and b.trained)
    return {key for key in unlike(a, b) if decides_costs(key) or not only_steps}


def _is_plain(group: Group) -> bool:
    return all(group.options.get(key, plain) == plain for key, plain in MEMORY_POLICY.items())


def _differences(group: Group, vanilla: Group) -> set[str]:
    """The options in which the two differ, those of the method left out except for its scope."""
    keys = _unlike_options(group, vanilla)
    return {key for key in keys if key == "method.scope" or not key.startswith(("method.", "rank."))}


def _distance(group: Group, vanilla: Group) -> tuple:
    differences = _differences(group, vanilla)
    rest = select(group.config, "method.train_rest") != select(vanilla.config, "method.train_rest")
    scope = "method.scope" in differences
    elsewhere = group.hardware != vanilla.hardware
    return len(differences) - scope, scope, rest, elsewhere, -vanilla.validated
