"""Parameter groups as torch's optimizers take them: dictionaries of `params` and of the options for these."""

from collections.abc import Container, Iterable
from typing import Any

Group = dict[str, Any]


def split(groups: Iterable[Group], chosen: Container[int], **options) -> list[Group]:
    """Split each group in two: the parameters that are not chosen, and those that are, with `options` set.

    Args:
        chosen: the `id` of each chosen parameter.
        options: replace those of the group; options that are not given here keep their values.

    Returns:
        For each group the rest, then the chosen parameters, in the given order; empty groups are omitted.
    """
    found: list[Group] = []
    for group in groups:
        left = [p for p in group["params"] if id(p) not in chosen]
        moved = [p for p in group["params"] if id(p) in chosen]
        found += [{**group, "params": left}] if left else []
        found += [{**group, **options, "params": moved}] if moved else []
    return found
