"""A block's groups as the lines of its figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from wasi.config.declared import is_reference
from wasi.report.comparison import Comparison
from wasi.report.groups import Block, Group, recipes_of, variant


@dataclass(frozen=True)
class Series:
    """Groups that differ only by their thresholds, in the order of these.

    `label`: their recipes where the block's rows go by these, else what the groups have in common.
    """

    method: str
    label: str
    groups: list[Group]


def series_of(block: Block) -> list[Series]:
    """Groups of one method, scope and other options, thresholds apart."""
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
    """Of many the first and the last."""
    return ", ".join(names) if len(names) < 4 else f"{names[0]} … {names[-1]}"


def references(comparisons: Sequence[Comparison]) -> list[Group]:
    """The vanillas whose accuracy figures draw as a line: those that a row of another method is compared with; without
    such a row the first vanilla."""
    vanillas = [(c.group, c.baseline) for c in comparisons if c.of_vanilla and c.baseline is not None]
    needed = {id(vanilla): vanilla for group, vanilla in vanillas if not is_reference(group.method)}
    return list(needed.values()) or [vanilla for _, vanilla in vanillas[:1]]
