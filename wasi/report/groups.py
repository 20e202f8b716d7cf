"""Groups of runs that differ only by seed, and blocks: the groups of one model on one data set."""

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from wasi.config.declared import declared_order, is_reference
from wasi.report import statistics
from wasi.report.benchmarks import joined, with_baselines
from wasi.report.columns import ACCURACY_NAMES, TEST, VALIDATION, Cost
from wasi.report.load import Run, hardware
from wasi.report.options import (
    activation_label,
    data_root,
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

_OPTIMIZATION = ("optimizer.", "scheduler.", "train.clip_norm")
_NAMES = ("model.name", "dataset.name", "method.name")  # shown for every row


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
        """The benchmark if it has measured the metric, else the runs that have."""
        if self.bench is not None and metric in self.bench.metrics:
            return (self.bench,)
        return tuple(run for run in self.runs if metric in run.metrics)

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


@dataclass(frozen=True)
class Block:
    """All groups of one model on one data set, in the order of a table.

    `differing` are the options that differ between groups and have no column of their own yet, as dotted keys.
    `alike` says that options do not tell all groups apart, as files of weights or data have changed.
    """

    model: str
    dataset: str
    groups: list[Group]
    differing: list[str] = field(default_factory=list)
    alike: bool = False

    @property
    def accuracy(self) -> str:
        """The metric that is quoted of all groups."""
        return self.groups[0].accuracy

    @property
    def accuracy_title(self) -> str:
        return f"{ACCURACY_NAMES[self.accuracy].capitalize()} accuracy"

    @property
    def title(self) -> str:
        return f"{self.model} on {self.dataset}"


def blocks_of(runs: Iterable[Run]) -> list[Block]:
    """The blocks of all completed runs: those with benchmarks first, which say most of costs, else as they appear."""
    completed = [run for run in runs if run.completed]
    trained = _groups(run for run in completed if not run.is_bench)
    benchmarked = _groups(with_baselines(run for run in completed if run.is_bench))
    groups = joined(trained, benchmarked)
    roots = [data_root(group.config) for group in groups]
    found: dict[tuple[str, str, str | None], list[Group]] = {}
    for group, root in zip(groups, roots, strict=True):
        found.setdefault((model_label(group.config), dataset_label(group.config, roots), root), []).append(group)
    blocks = [block_of(model, dataset, members) for (model, dataset, _), members in found.items()]
    return sorted(blocks, key=lambda block: all(group.bench is None for group in block.groups))


def with_equal_options(runs: Iterable[Run], without: Collection[str] = ()) -> list[Group]:
    """The groups of runs with equal options, except for the seed and those named in `without`."""
    alike: dict[str, list[Run]] = {}
    for run in runs:
        options = {key: value for key, value in result_options(run.config).items() if key not in without}
        alike.setdefault(json.dumps(options, sort_keys=True), []).append(run)
    return [Group(tuple(members), json.loads(key)) for key, members in alike.items()]


def _groups(runs: Iterable[Run]) -> list[Group]:
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


def block_of(model: str, dataset: str, groups: list[Group]) -> Block:
    """The block of the groups of one model on one data set."""
    tested = all(TEST in run.metrics for group in groups for run in group.trained)
    groups = [replace(group, accuracy=TEST if tested else VALIDATION) for group in sorted(groups, key=row_order)]
    always_shown = set().union(*(named(group.config) for group in groups))
    differing = [key for key in _differing(groups) if key not in always_shown]
    if not _are_distinguished(groups, differing):
        differing += [key for key in _differing(groups) if key not in differing and key not in _NAMES]
    return Block(model, dataset, groups, differing, alike=not _are_distinguished(groups, differing))


def _differing(groups: list[Group]) -> list[str]:
    """The options with more than one value. Those that only one method or optimizer has are compared within it."""
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
    """The method or class whose groups alone have the option, and among which it is compared."""
    section, _, name = key.partition(".")
    if name == "_target_":
        return None
    return group.method if section in ("method", "rank") else group.options.get(f"{section}._target_")


def _are_distinguished(groups: list[Group], differing: list[str], by_hardware: bool = True) -> bool:
    hardware = [group.hardware if by_hardware else None for group in groups]
    options = [tuple(shown_option(group, key) for key in differing) for group in groups]
    seen = set(zip(map(identity, groups), hardware, options, strict=True))
    return len(seen) == len(groups)


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


def row_names(block: Block) -> list[str]:
    """A name for each group that no other group of the block has: its recipe, or what tells it apart.

    Examples are `wasi_0.8`, `wasi 0.8/0.4` and `wasi 0.8, all, lr=0.05`.
    """
    if recipes := recipes_of(block):
        return recipes
    names = [", ".join([with_threshold(group), *variant(block, group)]) for group in block.groups]
    return [f"{name} ({names[:index].count(name) + 1})" if names.count(name) > 1 else name
            for index, name in enumerate(names)]  # fmt: skip


def recipes_of(block: Block) -> list[str]:
    """The groups' recipes, or for a vanilla without one the method's name; empty unless these tell all apart."""
    names = [group.recipe or (group.method if is_reference(group.method) else None) for group in block.groups]
    known = [name for name in names if name is not None]
    apart = len(set(known)) == len(names) and any(group.recipe for group in block.groups)
    return known if apart else []


def with_threshold(group: Group) -> str:
    """Method and thresholds: `wasi 0.8`."""
    return " ".join(filter(None, [group.method, epsilon_label(group.config)]))


def variant(block: Block, group: Group) -> list[str]:
    """What tells a group apart in its block, beside method and thresholds: `["all", "lr=0.05", "4 threads"]`.

    An option of the optimization with one value in all groups of the method, as the optimizer that suits it, is no part
    of it.
    """
    scope = [group.scope] if group.scope and len({other.scope for other in block.groups}) > 1 else []
    alike = [other for other in block.groups if other.method == group.method]
    keys = [
        key for key in block.differing
        if not key.startswith(_OPTIMIZATION) or len({shown_option(other, key) for other in alike}) > 1
    ]  # fmt: skip
    shown = {name: shown_option(group, key) for key, name in short_names(block.differing).items() if key in keys}
    options = [f"{name}={value}" for name, value in shown.items() if value is not None]
    return [*scope, *options, *_machine(block, group), *([group.runs[0].fingerprint[:8]] if block.alike else [])]


def _machine(block: Block, group: Group) -> list[str]:
    """The parts of the group's hardware that not all groups share: `["4 threads"]`; [] if options tell all apart."""
    if _are_distinguished(block.groups, block.differing, by_hardware=False):
        return []
    parts = [other.hardware.split(", ") for other in block.groups if other.hardware]
    return [part for part in (group.hardware or "").split(", ") if not all(part in others for others in parts)]


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
