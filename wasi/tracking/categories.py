"""The categories into which figures divide the memory and the time of a training step: names and colours.

No colour is like one that a method declares: where a figure has both, a colour must not seem to stand for a method.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Read = Callable[[str], float | None]  # the value of a metric of result.json; None where it was not measured


@dataclass(frozen=True)
class Category:
    """A part of a bar: its `label` in legends, and its `colour` as `#RRGGBB`."""

    label: str
    colour: str


MEMORY = {
    "weights": Category("weights", "#3B4A6B"),
    "gradients": Category("gradients", "#8494C8"),
    "optimizer": Category("optimizer state", "#80548C"),
    "activations": Category("activations", "#74A88A"),
    "temporary": Category("temporaries", "#D8BE6F"),
}
"""PART of the metrics `memory/train_PART_mib`, which sum to `memory/train_peak_mib`."""
ACCOUNTING = Category("the paper's accounting", "#BDBDBD")
TIME = {
    "subspace": Category("updating the subspaces", "#8C4A2F"),  # only for a step that was not profiled
    "decomposition": Category("decompositions", "#8C4A2F"),
    "factor_algebra": Category("products with factors", "#D8895B"),
    "attention": Category("attention", "#6C7FA6"),
    "optimizer": Category("optimizer and clipping", "#80548C"),
    "rest": Category("rest", "#B9BFC7"),
}
"""PART of the metrics `time/breakdown_PART_ms`, and `subspace`."""


def memory_metric(part: str) -> str:
    """Return the metric of a key of `MEMORY`."""
    return f"memory/train_{part}_mib"


def time_metric(part: str) -> str:
    """Return the metric of a key of `TIME` other than `subspace`."""
    return f"time/breakdown_{part}_ms"


def memory_parts(read: Read) -> dict[str, float]:
    """Return MiB by the keys of `MEMORY`, without those that are zero or not measured."""
    return _known({part: read(memory_metric(part)) for part in MEMORY})


def profiled_parts(read: Read) -> dict[str, float]:
    """Return milliseconds of a profiled step by the keys of `TIME`, without those that are zero or not measured."""
    return _known({part: read(time_metric(part)) for part in TIME})


def halves(read: Read) -> dict[str, float]:
    """Return the median step as `subspace` and `rest`, without a part that is zero; empty if it was not timed."""
    step = read("time/train_step_ms_p50")
    subspace = read("time/subspace_ms_p50") or 0.0  # a method without subspaces has no such time
    return _known({"subspace": subspace, "rest": step - subspace}) if step is not None and subspace <= step else {}


def time_parts(read: Read, is_compiled: bool = False) -> dict[str, float]:
    """Return `profiled_parts` or, where the step was not profiled, its `halves`.

    Args:
        is_compiled: whether `device.compile` was set; such a step cannot be divided.
    """
    return profiled_parts(read) or ({} if is_compiled else halves(read))


def _known(parts: Mapping[str, float | None]) -> dict[str, float]:
    return {part: value for part, value in parts.items() if value}
