"""A block's groups as the lines of its figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from wasi.config.declared import is_reference
from wasi.report.comparison import Comparison
from wasi.report.groups import Block, Group, row_names, variant


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
    names = dict(zip(map(id, block.groups), row_names(block), strict=True))
    found: dict[tuple[str, str], list[Group]] = {}
    for group in block.groups:
        label = ", ".join([group.method, *variant(block, group)])
        found.setdefault((group.method, label), []).append(group)
    return [
        Series(method, _recipes(groups, [names[id(group)] for group in groups]) or label, groups)
        for (method, label), groups in found.items()
    ]


def _recipes(groups: list[Group], names: list[str]) -> str | None:
    """The names, of many the first and the last; None where one of them is no recipe."""
    if any(group.recipe != name for group, name in zip(groups, names, strict=True)):
        return None
    return ", ".join(names) if len(names) < 4 else f"{names[0]} … {names[-1]}"


def references(comparisons: Sequence[Comparison]) -> list[Group]:
    """The vanillas whose accuracy figures draw as a line: those that a row of another method is compared with; without
    such a row the first vanilla."""
    vanillas = [(c.group, c.baseline) for c in comparisons if c.of_vanilla and c.baseline is not None]
    needed = {id(vanilla): vanilla for group, vanilla in vanillas if not is_reference(group.method)}
    return list(needed.values()) or [vanilla for _, vanilla in vanillas[:1]]
