"""A block's groups as the lines of its figures."""

from dataclasses import dataclass

from wasi.report.groups import Block, Group, variant


@dataclass(frozen=True)
class Series:
    """Groups that differ only by their thresholds, in the order of these."""

    method: str
    label: str
    groups: list[Group]


def series_of(block: Block) -> list[Series]:
    """Groups of one method, scope and other options, thresholds apart."""
    found: dict[tuple[str, str], list[Group]] = {}
    for group in block.groups:
        label = ", ".join([group.method, *variant(block, group)])
        found.setdefault((group.method, label), []).append(group)
    return [Series(method, label, groups) for (method, label), groups in found.items()]
