"""Pareto fronts: the points for which no other point is at least as good in everything and better in something."""

from collections.abc import Sequence


def better_everywhere(a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether `a` is better than `b` in every quantity; larger is better."""
    return all(ours > theirs for ours, theirs in zip(a, b, strict=True))


def on_front(points: Sequence[Sequence[float] | None]) -> list[bool]:
    """Return for each point whether it is on the Pareto front; larger is better in every quantity.

    Equal points are on the front together. A point that is None, as something was not measured, is not on the front
    and keeps no other off it.

    >>> on_front([(1.0, 3.0), (2.0, 2.0), (2.0, 1.0), None])
    [True, True, False, False]
    """
    known = [point for point in points if point is not None]
    return [point is not None and not any(_dominates(other, point) for other in known) for point in points]


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return tuple(a) != tuple(b) and all(ours >= theirs for ours, theirs in zip(a, b, strict=True))
