"""Means, spreads, and whether two small samples differ."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, stdev

SIGNIFICANCE = 0.05
_ROUNDING = 1e-12  # differences of so much relative to the numbers are those of rounding


@dataclass(frozen=True)
class Paired:
    """A mean difference over `n` pairs, its 95 % t-interval, and the two-sided p of no difference.

    Interval and p are None for a single pair and for differences that are all equal, as these have no scatter to judge
    by. If all differences are zero, p is 1.
    """

    n: int
    difference: float
    interval: tuple[float, float] | None = None
    p: float | None = None

    @property
    def without_scatter(self) -> bool:
        """Whether there are several pairs and all differences are equal."""
        return self.n > 1 and self.interval is None

    @property
    def interval_in_points(self) -> str:
        """The interval of an accuracy in percentage points as ` [-0.31, +0.80]`; "" if there is none."""
        return "" if self.interval is None else " [{:+.2f}, {:+.2f}]".format(*(100 * end for end in self.interval))


def mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def std(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None for fewer than two values.

    >>> std([1.0, 2.0, 3.0])
    1.0
    """
    return None if len(values) < 2 else stdev(values)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % t-interval of the mean; None for fewer than two values.

    >>> interval([0.7])
    >>> [round(bound, 3) for bound in interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    if len(values) < 2:
        return None
    centre = fmean(values)
    if not has_scatter(values):
        return centre, centre

    from scipy.stats import t

    low, high = t.interval(0.95, len(values) - 1, loc=centre, scale=stdev(values) / math.sqrt(len(values)))
    return float(low), float(high)


def paired(a: Mapping[str, float], b: Mapping[str, float]) -> Paired | None:
    """The paired difference `a` minus `b` over the seeds (keys) that both have; None if they share none.

    Differences that are all equal are not tested: a t-test would give p = 0, although with few images two or three
    seeds are often equal by chance.
    """
    shared = [key for key in a if key in b]
    if not shared:
        return None
    differences = [a[key] - b[key] for key in shared]
    centre = fmean(differences)
    if len(shared) == 1:
        return Paired(1, centre)
    largest = max(abs(side[key]) for side in (a, b) for key in shared)  # whose rounding the differences have
    if not has_scatter(differences, largest):
        return Paired(len(shared), centre, p=None if abs(centre) > _ROUNDING * largest else 1.0)

    from scipy.stats import ttest_rel

    with _without_remarks():
        test = ttest_rel([a[key] for key in shared], [b[key] for key in shared])
    low, high = test.confidence_interval(0.95)
    return Paired(len(shared), centre, (float(low), float(high)), float(test.pvalue))


def welch_p(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of Welch's t-test (unequal variances); None if there is no spread to judge by.

    There is none in a sample of one value, or if neither sample has any scatter; p is 1 if all their values are equal.
    """
    if len(a) < 2 or len(b) < 2:
        return None
    if not has_scatter(a) and not has_scatter(b):
        return None if has_scatter([*a, *b]) else 1.0

    from scipy.stats import ttest_ind

    with _without_remarks():
        return float(ttest_ind(a, b, equal_var=False).pvalue)


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Silence scipy's warning about samples of nearly equal values, which memory in MiB often has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def has_scatter(values: Sequence[float], scale: float | None = None) -> bool:
    """Whether the values, at least two, differ by more than rounding.

    Args:
        scale: the size of the numbers that were rounded. None is the largest value's.
    """
    return stdev(values) > _ROUNDING * (max(map(abs, values)) if scale is None else scale)
