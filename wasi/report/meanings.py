"""Explanations for a reader of a report: what its methods do, and what its columns and thresholds mean."""

from collections.abc import Iterable

from wasi.config.declared import appearance

RANKS_BY_HAND = (
    "numbers as in 16x10x40: ranks of the activations' modes (images, tokens, features) that were set by hand; keep: "
    "the share of a weight's parameters that is kept"
)
METHOD = "how the model is trained, each is explained below; every other row is compared with {baseline}"
TUNED = (
    "what tuning chose on validation images with one seed, and whether that lies on the edge of its grid; all that was "
    "tried is below, under Tuning"
)
BALANCED = "balanced accuracy on the same images: the mean recall of the classes, of whatever size"
PARETO = "● where no other row is at least as good in accuracy, step time and peak memory and better in one"


def meanings_of(methods: Iterable[str]) -> dict[str, str]:
    """What each method does by its class's `about`, in the order given; a method without one is left out."""
    found = {name: appearance(name) for name in dict.fromkeys(methods)}
    return {name: look.about for name, look in found.items() if look is not None and look.about}
