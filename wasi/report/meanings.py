"""What a reader of a report need not know beforehand: what its methods do, and what stands for thresholds."""

from collections.abc import Iterable

from wasi.config.declared import appearance

RANKS_BY_HAND = (
    "numbers as in 16x10x40: ranks of the activations' modes (images, tokens, features) that were set by hand; keep: "
    "the share of a weight's parameters that is kept"
)


def meanings_of(methods: Iterable[str]) -> dict[str, str]:
    """Per method, in the order given, what its class declares about it; without those that declare nothing."""
    found = {name: appearance(name) for name in dict.fromkeys(methods)}
    return {name: look.about for name, look in found.items() if look is not None and look.about}
