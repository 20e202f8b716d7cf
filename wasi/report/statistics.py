"""Means, spreads, and whether two small samples differ."""

import math
from collections.abc import Sequence

SIGNIFICANCE = 0.05


def mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def std(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None for fewer than two values.

    >>> std([1.0, 2.0, 3.0])
    1.0
    """
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def welch_p(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of Welch's t-test (unequal variances); None where either sample has no spread to judge by.

    Two samples without any scatter have p = 1 when they agree and p = 0 when they do not.
    """
    if len(a) < 2 or len(b) < 2:
        return None
    va, vb = std(a) ** 2 / len(a), std(b) ** 2 / len(b)
    difference = mean(a) - mean(b)
    if va + vb == 0:
        return 0.0 if difference else 1.0

    from scipy.special import stdtr

    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return float(2 * stdtr(freedom, -abs(difference) / math.sqrt(va + vb)))
