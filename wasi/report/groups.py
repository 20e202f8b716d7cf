"""Runs that differ only by seed, as one group; groups of one model on one data set, as one block."""

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from wasi.config.declared import is_reference, place
from wasi.report import statistics
from wasi.report.benchmarks import joined, with_baselines
from wasi.report.columns import ACCURACY_NAMES, TEST, VALIDATION, Cost
from wasi.report.load import Run, hardware
from wasi.report.options import (
    activation_label,
    dataset_label,
    epsilon_label,
    model_label,
    named,
    result_options,
    select,
    show_option,
    unquotable,
    weight_label,
)

_NAMES = ("model.name", "dataset.name", "method.name")  # every row tells them


@dataclass(frozen=True, eq=False)
class Group:
    """Completed runs of one configuration under different seeds; `options` is what they share.

    Runs whose times are of different hardware are different groups.
    `accuracy`: the metric that is quoted, `test/acc` where all runs of the block have it, otherwise `val/acc`.
    `bench`: a benchmark of the same training step; what it has measured counts in place of what the runs have.
    A group that was benchmarked and never trained has its benchmark in `runs` too.
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
        """The runs that are no benchmarks."""
        return tuple(run for run in self.runs if not run.is_bench)

    @property
    def hardware(self) -> str | None:
        """What its times are of."""
        runs = self.sources("time/train_step_ms_p50") or self.runs
        return next((label for run in runs if (label := hardware(run))), None)

    @property
    def is_quotable(self) -> bool:
        """Whether its accuracy says anything: with surrogate weights or synthetic images it does not."""
        return not unquotable(self.config)

    @property
    def seeds(self) -> list:
        return [run.config["seed"] for run in self.runs]

    def sources(self, metric: str) -> tuple[Run, ...]:
        """Where the metric's values come from."""
        if self.bench is not None and metric in self.bench.metrics:
            return (self.bench,)
        return tuple(run for run in self.runs if metric in run.metrics)

    def by_seed(self, metric: str) -> dict[str, float]:
        return {str(run.config["seed"]): run.metrics[metric] for run in self.sources(metric)}

    def values(self, metric: str) -> list[float]:
        """One value per run that has it, or the benchmark's."""
        return [run.metrics[metric] for run in self.sources(metric)]

    @property
    def quoted(self) -> float | None:
        """The mean accuracy; None where there is none, or it must not be quoted."""
        return self.mean(self.accuracy) if self.is_quotable else None

    def mean(self, metric: str) -> float | None:
        return statistics.mean(self.values(metric))

    def std(self, metric: str) -> float | None:
        return statistics.std(self.values(metric))

    def minus(self, other: "Group") -> statistics.Paired | None:
        """The difference of the two accuracies over the seeds that both have; None where they share none."""
        return statistics.paired(self.by_seed(self.accuracy), other.by_seed(self.accuracy))

    def in_turns(self, cost: Cost) -> dict[str, float] | None:
        """The benchmark's ratio of its baseline's cost to this group's, the two measured in turns.

        `p50` and, from enough rounds, the bounds `low` and `high` of its 95 % interval; None without a benchmark.
        """
        return None if self.bench is None else self.bench.ratio.get(cost.metric)

    def cost(self, cost: Cost) -> float | None:
        """The mean, in the unit in which reports show it."""
        found = self.mean(cost.metric)
        return None if found is None else found / cost.unit


@dataclass(frozen=True)
class Block:
    """All groups of one model on one data set, in the order of a table.

    `differing`: options without a place of their own in which the groups differ, as dotted keys.
    `alike`: groups that no option tells apart (what the weights or the data folder held, differed).
    """

    model: str
    dataset: str
    groups: list[Group]
    differing: list[str] = field(default_factory=list)
    alike: bool = False

    @property
    def accuracy(self) -> str:
        """Of all its groups."""
        return self.groups[0].accuracy

    @property
    def accuracy_title(self) -> str:
        return f"{ACCURACY_NAMES[self.accuracy].capitalize()} accuracy"

    @property
    def title(self) -> str:
        return f"{self.model} on {self.dataset}"


def blocks_of(runs: Iterable[Run]) -> list[Block]:
    """Blocks in order of appearance. Runs that are not completed are not looked at."""
    completed = [run for run in runs if run.completed]
    trained = _groups(run for run in completed if not run.is_bench)
    benchmarked = _groups(with_baselines(run for run in completed if run.is_bench))
    found: dict[tuple[str, str], list[Group]] = {}
    for group in joined(trained, benchmarked):
        found.setdefault((model_label(group.config), dataset_label(group.config)), []).append(group)
    return [block_of(model, dataset, groups) for (model, dataset), groups in found.items()]


def with_equal_options(runs: Iterable[Run], without: Collection[str] = ()) -> list[Group]:
    """Runs whose options agree, seeds apart, as groups in order of appearance.

    Args:
        without: options that are left out of the comparison and of the groups' `options`, as dotted keys.
    """
    alike: dict[str, list[Run]] = {}
    for run in runs:
        options = {key: value for key, value in result_options(run.config).items() if key not in without}
        alike.setdefault(json.dumps(options, sort_keys=True), []).append(run)
    return [Group(tuple(members), json.loads(key)) for key, members in alike.items()]


def _groups(runs: Iterable[Run]) -> list[Group]:
    """Runs with equal options; where one seed comes twice among them, something unseen differs: each apart."""
    groups = []
    for group in with_equal_options(runs):
        for part in _by_hardware(group.runs):
            seeds = [str(run.config["seed"]) for run in part]
            once = len(set(seeds)) == len(seeds)
            part.sort(key=lambda run: _natural(str(run.config["seed"])))
            groups += [replace(group, runs=tuple(runs)) for runs in ([part] if once else [[run] for run in part])]
    return groups


def _by_hardware(runs: Sequence[Run]) -> list[list[Run]]:
    """Times of different hardware are no sample of one quantity; runs without times go with the first of them."""
    kinds = dict.fromkeys(label for run in runs if (label := hardware(run)))
    first = next(iter(kinds), None)
    return [[run for run in runs if (hardware(run) or first) == kind] for kind in kinds or [None]]


def block_of(model: str, dataset: str, groups: list[Group]) -> Block:
    """The groups of one model on one data set, in order, with what tells them apart."""
    tested = all(TEST in run.metrics for group in groups for run in group.trained)
    groups = [replace(group, accuracy=TEST if tested else VALIDATION) for group in sorted(groups, key=row_order)]
    told = set().union(*(named(group.config) for group in groups))
    differing = [key for key in _differing(groups) if key not in told]
    if not _told_apart(groups, differing):
        differing += [key for key in _differing(groups) if key not in differing and key not in _NAMES]
    return Block(model, dataset, groups, differing, alike=not _told_apart(groups, differing))


def _differing(groups: list[Group]) -> list[str]:
    """Keys with more than one value; what only one method or optimizer has is compared within it."""
    keys = dict.fromkeys(key for group in groups for key in group.options)
    found = []
    for key in keys:
        values: dict[str | None, set[str]] = {}
        for group in groups:
            values.setdefault(_family(group, key), set()).add(json.dumps(group.options.get(key)))
        if any(len(different) > 1 for different in values.values()):
            found.append(key)
    return found


def _family(group: Group, key: str) -> str | None:
    """Among which groups an option is compared: one `optimizer` has no use for another's options."""
    section, _, name = key.partition(".")
    if name == "_target_":
        return None
    return group.method if section in ("method", "rank") else group.options.get(f"{section}._target_")


def _told_apart(groups: list[Group], differing: list[str]) -> bool:
    seen = [(*identity(group), group.hardware, *(shown_option(group, key) for key in differing)) for group in groups]
    return len(set(seen)) == len(seen)


def identity(group: Group) -> tuple[str, str, str | None, str | None]:
    """Method, scope, and what decides the ranks of weights and of activations."""
    return group.method, group.scope, weight_label(group.config), activation_label(group.config)


def unlike(a: Group, b: Group) -> set[str]:
    """Options in which two groups differ, as dotted keys."""
    return {key for key in {**a.options, **b.options} if a.options.get(key) != b.options.get(key)}


def shown_option(group: Group, key: str) -> str | None:
    """None for an option that this group does not have."""
    if key not in group.options:
        return None
    return show_option(key, group.options[key])


def row_names(block: Block) -> list[str]:
    """A name per group that no other group of the block has: its recipe, or what tells it apart.

    `wasi_0.8`; `wasi 0.8/0.4`; `wasi 0.8, all, lr=0.05`.
    """
    if recipes := recipes_of(block):
        return recipes
    names = [", ".join([with_threshold(group), *variant(block, group)]) for group in block.groups]
    return [f"{name} ({names[:place].count(name) + 1})" if names.count(name) > 1 else name
            for place, name in enumerate(names)]  # fmt: skip


def recipes_of(block: Block) -> list[str]:
    """The groups' recipes, and the method's name of a vanilla without one, where these tell all apart; else nothing."""
    names = [group.recipe or (group.method if is_reference(group.method) else None) for group in block.groups]
    told = [name for name in names if name is not None]
    apart = len(set(told)) == len(names) and any(group.recipe for group in block.groups)
    return told if apart else []


def with_threshold(group: Group) -> str:
    """`wasi 0.8`."""
    return " ".join(filter(None, [group.method, epsilon_label(group.config)]))


def variant(block: Block, group: Group) -> list[str]:
    """What beside method and thresholds tells a group apart from others of the block: `["all", "lr=0.05"]`."""
    scope = [group.scope] if len({other.scope for other in block.groups}) > 1 else []
    shown = {name: shown_option(group, key) for key, name in short_names(block.differing).items()}
    options = [f"{name}={value}" for name, value in shown.items() if value is not None]
    return [*scope, *options, *([group.runs[0].fingerprint[:8]] if block.alike else [])]


def short_names(keys: list[str]) -> dict[str, str]:
    """Dotted key -> the last part of it, where no other key of `keys` ends alike.

    >>> short_names(["optimizer.lr", "optimizer.eps", "method.eps", "device.name"])
    {'optimizer.lr': 'lr', 'optimizer.eps': 'optimizer.eps', 'method.eps': 'method.eps', 'device.name': 'device'}
    """
    sections = [key.removesuffix("._target_").removesuffix(".name") for key in keys]
    last = [section.rpartition(".")[2] for section in sections]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def row_order(group: Group) -> tuple:
    """By which rows are sorted: method by method, thresholds ascending, a lean row after its plain one."""
    method, scope, weight, activation = identity(group)
    ranks = *_natural(weight), *_natural(activation)
    lean = select(group.config, "train.memory") == "lean"
    return *place(method), scope, *ranks, lean, json.dumps(group.options, sort_keys=True), group.hardware or ""


def _natural(label: str | None) -> tuple[float, str]:
    """Numbers by size, then other labels."""
    try:
        return float(label or "-inf"), label or ""
    except ValueError:
        return math.inf, label or ""
