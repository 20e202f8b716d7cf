"""Groups of runs that differ only by seed: the rows of every table."""

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wasi.config.declared import declared_order
from wasi.config.files import select
from wasi.config.objectives import OF_A_PROCESS
from wasi.report import statistics
from wasi.report.columns import VALIDATION, Cost
from wasi.report.load import Run, hardware
from wasi.report.options import activation_label, epsilon_label, result_options, show_option, unquotable, weight_label


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one configuration under different seeds; `options` is what they share, by dotted key.

    `accuracy` is the metric that is quoted: `test/acc` if all runs of the block have it, else `val/acc`.
    `bench` is a benchmark of the same training step, whose numbers count in place of the runs' own. A group that was
    never trained has its benchmark in `runs` too.
    """

    runs: tuple[Run, ...]
    options: dict[str, Any]
    accuracy: str = VALIDATION
    bench: Run | None = None

    @property
    def config(self) -> dict:
        return self.runs[0].config

    @property
    def method(self) -> str:
        return self.config["method"]["name"]

    @property
    def recipe(self) -> str | None:
        return select(self.config, "recipe")

    @property
    def scope(self) -> str:
        return str(select(self.config, "method.scope") or "")

    @property
    def trained(self) -> tuple[Run, ...]:
        """The runs that are not benchmarks."""
        return tuple(run for run in self.runs if not run.is_bench)

    @property
    def hardware(self) -> str | None:
        """The hardware that its times were measured on, if they tell."""
        runs = self.sources("time/train_step_ms_p50") or self.runs
        return next((label for run in runs if (label := hardware(run))), None)

    @property
    def is_quotable(self) -> bool:
        """False with surrogate weights or synthetic images, with which an accuracy means nothing."""
        return not unquotable(self.config)

    @property
    def seeds(self) -> list:
        return [run.config["seed"] for run in self.runs]

    def sources(self, metric: str) -> tuple[Run, ...]:
        """The benchmark if it has measured the metric, else the runs that have.

        None if only some have the memory of a process: that is of a sweep's first run, and no mean over the seeds.
        """
        if self.bench is not None and metric in self.bench.metrics:
            return (self.bench,)
        found = tuple(run for run in self.runs if metric in run.metrics)
        return () if metric in OF_A_PROCESS and len(found) < len(self.runs) else found

    def by_seed(self, metric: str) -> dict[str, float]:
        return {str(run.config["seed"]): run.metrics[metric] for run in self.sources(metric)}

    def values(self, metric: str) -> list[float]:
        """The metric's values, one for each of `sources`."""
        return [run.metrics[metric] for run in self.sources(metric)]

    @property
    def quoted(self) -> float | None:
        """The mean accuracy over seeds; None if there is none or it must not be quoted."""
        return self.mean(self.accuracy) if self.is_quotable else None

    @property
    def validated(self) -> float:
        """The mean accuracy on validation images, by which the best row is chosen; 0 without one."""
        return self.mean(VALIDATION) or 0.0

    def mean(self, metric: str) -> float | None:
        return statistics.mean(self.values(metric))

    def std(self, metric: str) -> float | None:
        return statistics.std(self.values(metric))

    def minus(self, other: "Group") -> statistics.Paired | None:
        """This accuracy minus the other's, paired over the seeds that both have; None if they share none."""
        return statistics.paired(self.by_seed(self.accuracy), other.by_seed(self.accuracy))

    def in_turns(self, cost: Cost) -> dict[str, float] | None:
        """The ratio baseline / this of a cost, if a benchmark has measured the two in turns: `p50` and, after enough
        rounds, `low` and `high` of its 95 % interval."""
        return None if self.bench is None else self.bench.ratio.get(cost.metric)

    def cost(self, cost: Cost) -> float | None:
        """The mean of a cost in the unit in which reports show it."""
        found = self.mean(cost.metric)
        return None if found is None else found / cost.unit


def with_equal_options(runs: Iterable[Run], without: Collection[str] = ()) -> list[Group]:
    """The groups of runs with equal options, except for the seed and those named in `without`."""
    alike: dict[str, list[Run]] = {}
    for run in runs:
        options = {key: value for key, value in result_options(run.config).items() if key not in without}
        alike.setdefault(json.dumps(options, sort_keys=True), []).append(run)
    return [Group(tuple(members), json.loads(key)) for key, members in alike.items()]


def groups_of(runs: Iterable[Run]) -> list[Group]:
    """The groups of runs with equal options and hardware. Where a seed comes twice, each run is a group, as then
    something differs that no option tells."""
    groups = []
    for group in with_equal_options(runs):
        for part in _by_hardware(group.runs):
            seeds = [str(run.config["seed"]) for run in part]
            once = len(set(seeds)) == len(seeds)
            part.sort(key=lambda run: _natural(str(run.config["seed"])))
            groups += [replace(group, runs=tuple(runs)) for runs in ([part] if once else [[run] for run in part])]
    return groups


def _by_hardware(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs divided by the hardware of their times; runs without times go with the first part."""
    kinds = dict.fromkeys(label for run in runs if (label := hardware(run)))
    first = next(iter(kinds), None)
    return [[run for run in runs if (hardware(run) or first) == kind] for kind in kinds or [None]]


def identity(group: Group) -> tuple[str, str, str | None, str | None]:
    """Method, scope, and the labels of what decides the ranks of weights and of activations."""
    return group.method, group.scope, weight_label(group.config), activation_label(group.config)


def unlike(a: Group, b: Group) -> set[str]:
    """The options in which two groups differ, as dotted keys."""
    return {key for key in {**a.options, **b.options} if a.options.get(key) != b.options.get(key)}


def shown_option(group: Group, key: str) -> str | None:
    """An option's value as text; None if the group does not have that option."""
    if key not in group.options:
        return None
    return show_option(key, group.options[key])


def with_threshold(group: Group) -> str:
    """Method and thresholds: `wasi 0.8`."""
    return " ".join(filter(None, [group.method, epsilon_label(group.config)]))


def short_names(keys: list[str]) -> dict[str, str]:
    """The name to show for each dotted key: its last part, or the whole key if another one ends alike.

    >>> short_names(["optimizer.lr", "optimizer.eps", "method.eps", "device.name"])
    {'optimizer.lr': 'lr', 'optimizer.eps': 'optimizer.eps', 'method.eps': 'method.eps', 'device.name': 'device'}
    """
    sections = [key.removesuffix("._target_").removesuffix(".name") for key in keys]
    last = [section.rpartition(".")[2] for section in sections]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def row_order(group: Group) -> tuple:
    """The key by which rows are sorted: by method, then thresholds ascending, a lean row after its plain one, and then
    by the other options, numbers by size."""
    method, scope, weight, activation = identity(group)
    ranks = *_natural(weight), *_natural(activation)
    lean = select(group.config, "train.memory") == "lean"
    options = [(key, *_natural(json.dumps(value))) for key, value in sorted(group.options.items())]
    return *declared_order(method), scope, *ranks, lean, options, group.hardware or ""


def _natural(label: str | None) -> tuple[float, str]:
    """A key that sorts numbers by size, before them what is None, and behind them other labels."""
    try:
        return float(label or "-inf"), label or ""
    except ValueError:
        return math.inf, label or ""
