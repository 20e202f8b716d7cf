"""Blocks: the groups of one model on one data set, which share a table, and what tells their rows apart."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from wasi.config.declared import is_reference
from wasi.report.benchmarks import joined, with_baselines
from wasi.report.columns import ACCURACY_NAMES, TEST, VALIDATION
from wasi.report.comparison import Comparison, compare
from wasi.report.groups import Group, groups_of, identity, row_order, short_names, shown_option, with_threshold
from wasi.report.load import Run
from wasi.report.options import data_root, dataset_label, model_label, named

_OPTIMIZATION = ("optimizer.", "scheduler.", "train.clip_norm")
_NAMES = ("model.name", "dataset.name", "method.name")  # shown for every row


@dataclass(frozen=True)
class Block:
    """All groups of one model on one data set, in the order of a table.

    `differing` are the options that differ between groups and have no column of their own yet, as dotted keys.
    `alike` says that options do not tell all groups apart, as files of weights or data have changed.
    """

    model: str
    dataset: str
    groups: list[Group]
    differing: list[str]
    alike: bool

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """One comparison for each group, in the same order."""
        return compare(self.groups)

    @property
    def remarks(self) -> list[str]:
        """The remarks on its comparisons, each once; rows refer to them by their numbers, from 1 on."""
        return list(dict.fromkeys(remark for comparison in self.comparisons for remark in comparison.remarks))

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
    trained = groups_of(run for run in completed if not run.is_bench)
    benchmarked = groups_of(with_baselines(run for run in completed if run.is_bench))
    groups = joined(trained, benchmarked)
    roots = [data_root(group.config) for group in groups]
    found: dict[tuple[str, str, str | None], list[Group]] = {}
    for group, root in zip(groups, roots, strict=True):
        found.setdefault((model_label(group.config), dataset_label(group.config, roots), root), []).append(group)
    blocks = [block_of(model, dataset, members) for (model, dataset, _), members in found.items()]
    return sorted(blocks, key=lambda block: all(group.bench is None for group in block.groups))


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
    own = group.hardware.split(", ") if group.hardware else []
    return [part for part in own if not all(part in others for others in parts)]
