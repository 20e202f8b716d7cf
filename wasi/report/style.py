"""How series look: each method has the colour and marker that it declares; fill, line and shade tell variants apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wasi.config.declared import Appearance, appearance

_OTHERS = (("#56B4E9", "p"), ("#7F7F7F", "d"), ("#8C6D31", "8"))  # for methods that declare nothing
_REFERENCE_LINE = (0, (4, 3))
_LINES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
_FILLS = (1.0, 0.0, 0.5)  # filled, hollow, half-tone
_LOG_FROM = 4.0
_LIGHTER, _DARKER, _LIGHTEST = 0.45, 0.35, 0.7  # the share of white or black in a shade
_BLACKISH = 0x40  # a colour whose channels are all below has no darker shade that looks different

SETTINGS: Any = {  # matplotlib has a type for such keys from 3.11 on, and no longer accepts str then
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.hashsalt": "wasi",  # the same figure, the same file
}


@dataclass(frozen=True)
class Style:
    """The look of a series. `fill` is the opacity of a marker inside its rim, from 0 (hollow) to 1."""

    colour: str
    marker: str
    line: Any
    fill: float

    @property
    def size(self) -> float:
        """The marker's size in points."""
        return 11 if self.marker == "*" else 6

    @property
    def text_colour(self) -> str:
        """A darker shade of the colour, in which small print can be read on white."""
        return _mixed(self.colour, 0x00, 0.28)

    def marks(self) -> dict[str, Any]:
        """The keyword arguments of `Axes.plot` for this look."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markersize": self.size,
            "markerfacecolor": _mixed(self.colour, 0xFF, 1 - self.fill),
            "markeredgecolor": self.colour if self.fill < 1 else "white",
            "markeredgewidth": 1.2 if self.fill < 1 else 0.6,
            "linestyle": self.line,
            "linewidth": 1.4,
        }


def styles(methods: Sequence[str]) -> list[Style]:
    """One style for each series, given by the method of each. The series of one method share its hue and marker; nine
    of them differ in fill or shade, and four in the line."""
    unknown = list(dict.fromkeys(method for method in methods if appearance(method) is None))
    seen: dict[str, int] = {}
    found = []
    for method in methods:
        variant = seen.get(method, 0)
        seen[method] = variant + 1
        look = appearance(method) or Appearance(0, *_OTHERS[unknown.index(method) % len(_OTHERS)])
        line = _REFERENCE_LINE if look.reference else _LINES[variant % len(_LINES)]
        shades = _shades(look.colour)
        colour = shades[variant // len(_FILLS) % len(shades)]
        found.append(Style(colour, look.marker, line, _FILLS[variant % len(_FILLS)]))
    return found


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether an axis of these values is logarithmic at first: if they are positive and the largest is at least
    `_LOG_FROM` times the smallest.

    Costs are compared by their ratios. A linear axis over a factor of four leaves a third of its length to values up to
    twice the smallest, and twice as much to the factor of two above, although the two differ as much.
    """
    return bool(values) and min(values) > 0 and max(values) >= _LOG_FROM * min(values)


def _shades(colour: str) -> list[str]:
    """The colour itself, a lighter and a darker shade, or two lighter ones if it is near black."""
    darkest = _mixed(colour, 0xFF, _LIGHTEST) if max(_channels(colour)) < _BLACKISH else _mixed(colour, 0x00, _DARKER)
    return [colour, _mixed(colour, 0xFF, _LIGHTER), darkest]


def _mixed(colour: str, grey: int, share: float) -> str:
    """`#RRGGBB` mixed with a share of black (0x00), white (0xFF) or the grey in between."""
    return "#" + "".join(f"{round(channel + (grey - channel) * share):02X}" for channel in _channels(colour))


def _channels(colour: str) -> list[int]:
    """Red, green and blue of `#RRGGBB`, each from 0 to 255."""
    return [int(colour[index : index + 2], 16) for index in (1, 3, 5)]
