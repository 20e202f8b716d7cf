"""Divides a block's groups into the lines of its figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from wasi.config.declared import is_reference
from wasi.report.comparison import Comparison
from wasi.report.groups import Block, Group, recipes_of, variant


@dataclass(frozen=True)
class Series:
    """Groups that differ only by their thresholds, in ascending order.

    `label` is for legends: their recipes if the block's rows are named by these, else what the groups have in common.
    """

    method: str
    label: str
    groups: list[Group]


def series_of(block: Block) -> list[Series]:
    """The block's series: groups with equal method, scope and other options, except for the thresholds."""
    recipes = dict(zip(map(id, block.groups), recipes_of(block), strict=False))
    found: dict[tuple[str, str], list[Group]] = {}
    for group in block.groups:
        label = ", ".join([group.method, *variant(block, group)])
        found.setdefault((group.method, label), []).append(group)
    return [
        Series(method, _enumerated([recipes[id(group)] for group in groups]) if recipes else label, groups)
        for (method, label), groups in found.items()
    ]


def _enumerated(names: list[str]) -> str:
    """The names in one text; of more than three only the first and the last."""
    return ", ".join(names) if len(names) < 4 else f"{names[0]} … {names[-1]}"


def references(comparisons: Sequence[Comparison]) -> list[Group]:
    """The vanillas whose accuracy is drawn as a line across figures: those that rows of other methods are compared
    with, or without such rows the first vanilla."""
    vanillas = [(c.group, c.baseline) for c in comparisons if c.of_vanilla and c.baseline is not None]
    needed = {id(vanilla): vanilla for group, vanilla in vanillas if not is_reference(group.method)}
    return list(needed.values()) or [vanilla for _, vanilla in vanillas[:1]]
