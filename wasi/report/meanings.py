"""Explanations for a reader of a report: what its methods do, and what may stand in the place of a threshold."""

from collections.abc import Iterable

from wasi.config.declared import appearance

RANKS_BY_HAND = (
    "numbers as in 16x10x40: ranks of the activations' modes (images, tokens, features) that were set by hand; keep: "
    "the share of a weight's parameters that is kept"
)


def meanings_of(methods: Iterable[str]) -> dict[str, str]:
    """What each method does by its class's `about`, in the order given; a method without one is left out."""
    found = {name: appearance(name) for name in dict.fromkeys(methods)}
    return {name: look.about for name, look in found.items() if look is not None and look.about}
