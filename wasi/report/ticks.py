"""Chooses the ticks of a logarithmic axis that get a number, so that the numbers do not touch."""

import math
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

_MULTIPLES = ((1, 2, 3, 4, 6, 8), (1, 2, 3, 4, 6), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))


def label_log_axis(ax: Axes, width: float, size: float) -> None:
    """Label the x axis with plain numbers, as many as there is room for.

    Args:
        width: the axis's width in points.
        size: the font size in points.
    """
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(LogLocator(subs=readable_multiples(low, high, width, size)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())


def readable_multiples(low: float, high: float, width: float, size: float) -> tuple[int, ...]:
    """The largest set of multiples of powers of ten whose numbers do not touch between `low` and `high`."""
    for multiples in _MULTIPLES:
        ticks = _ticks(low, high, multiples)
        places = [math.log(tick / low) / math.log(high / low) * width for tick in ticks]
        halves = [0.62 * size * len(number(tick)) / 2 for tick in ticks]
        extents = [(place - half, place + half) for place, half in zip(places, halves, strict=True)]
        if all(start - end >= 0.6 * size for (_, end), (start, _) in pairwise(extents)):
            return multiples
    return _MULTIPLES[-1]


def number(value: float) -> str:
    """The text of a tick's number, without trailing zeros.

    >>> [number(v) for v in (0.05, 1.0, 20000.0)]
    ['0.05', '1', '20000']
    """
    return f"{value:.10g}"


def _ticks(low: float, high: float, multiples: tuple[int, ...]) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{multiple}e{decade}") for decade in decades for multiple in multiples]
    return [tick for tick in ticks if low <= tick <= high]
