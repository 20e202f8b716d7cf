"""Parameter groups, as torch's optimizers take them: dictionaries of `params` and of options that hold for these."""

from collections.abc import Container, Iterable
from typing import Any

Group = dict[str, Any]


def split(groups: Iterable[Group], chosen: Container[int], **options) -> list[Group]:
    """The same parameters in the same order, but that those in `chosen` stand in groups of their own with `options`.

    Args:
        chosen: `id` of each parameter to move. Of the options of the group that it was in, it keeps what `options` does
            not say.

    Returns:
        For each group what is left of it, then what was chosen, without groups that would be empty.
    """
    found: list[Group] = []
    for group in groups:
        left = [p for p in group["params"] if id(p) not in chosen]
        moved = [p for p in group["params"] if id(p) in chosen]
        found += [{**group, "params": left}] if left else []
        found += [{**group, **options, "params": moved}] if moved else []
    return found
