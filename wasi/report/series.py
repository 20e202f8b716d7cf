"""Divides a block's groups into the lines of its figures, and gives each line its look."""

from collections.abc import Sequence
from dataclasses import dataclass

from wasi.config.declared import is_reference
from wasi.report.blocks import Block, recipes_of, variant
from wasi.report.comparison import Comparison
from wasi.report.groups import Group
from wasi.report.style import Style, styles


@dataclass(frozen=True)
class Series:
    """Groups that differ only by their thresholds, in ascending order.

    `label` is for legends: their recipes if the block's rows are named by these, else what the groups have in common.
    """

    label: str
    groups: list[Group]
    style: Style


def series_of(block: Block) -> list[Series]:
    """The block's series: groups with equal method, scope and other options, except for the thresholds."""
    recipes = dict(zip(block.groups, recipes_of(block), strict=False))
    found: dict[str, list[Group]] = {}
    for group in block.groups:
        found.setdefault(", ".join([group.method, *variant(block, group)]), []).append(group)
    looks = styles([groups[0].method for groups in found.values()])
    return [
        Series(_enumerated([recipes[group] for group in groups]) if recipes else label, groups, look)
        for (label, groups), look in zip(found.items(), looks, strict=True)
    ]


def _enumerated(names: list[str]) -> str:
    """The names in one text; of more than three only the first and the last."""
    return ", ".join(names) if len(names) < 4 else f"{names[0]} … {names[-1]}"


def references(comparisons: Sequence[Comparison]) -> list[Group]:
    """The vanillas whose accuracy is drawn as a line across figures: those that rows of other methods are compared
    with, or without such rows the first vanilla."""
    vanillas = [(c.group, c.baseline) for c in comparisons if c.of_vanilla and c.baseline is not None]
    needed = dict.fromkeys(vanilla for group, vanilla in vanillas if not is_reference(group.method))
    return list(needed) or [vanilla for _, vanilla in vanillas[:1]]
