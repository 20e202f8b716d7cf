"""How series look: each method in the colour and marker that it declares, variants apart by line and fill."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wasi.config.declared import Appearance, appearance

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType  # of 3.10 and later

_OTHERS = (("#56B4E9", "p"), ("#7F7F7F", "d"), ("#8C6D31", "8"))  # for methods that declare nothing
_REFERENCE_LINE = (0, (4, 3))
_LINES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))

SETTINGS: "dict[RcKeyType, Any]" = {
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
    colour: str
    marker: str
    line: Any
    filled: bool
    reference: bool = False

    @property
    def size(self) -> float:
        """Of the marker, in points."""
        return 11 if self.marker == "*" else 6

    @property
    def text_colour(self) -> str:
        """Darker, so that small print can be read on white."""
        channels = [int(int(self.colour[place : place + 2], 16) * 0.72) for place in (1, 3, 5)]
        return "#" + "".join(f"{channel:02X}" for channel in channels)

    def marks(self) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot` for markers and line."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markersize": self.size,
            "markerfacecolor": self.colour if self.filled else "white",
            "markeredgecolor": self.colour if not self.filled else "white",
            "markeredgewidth": 1.2 if not self.filled else 0.6,
            "linestyle": self.line,
            "linewidth": 1.4,
        }


def styles(series: list[tuple[str, str]]) -> list[Style]:
    """One style per (method, label): variants of a method share its colour, not its line and fill."""
    unknown = list(dict.fromkeys(method for method, _ in series if appearance(method) is None))
    seen: dict[str, int] = {}
    found = []
    for method, _ in series:
        variant = seen.get(method, 0)
        seen[method] = variant + 1
        look = appearance(method) or Appearance(0, *_OTHERS[unknown.index(method) % len(_OTHERS)])
        line = _REFERENCE_LINE if look.reference else _LINES[variant % len(_LINES)]
        found.append(Style(look.colour, look.marker, line, variant % 2 == 0, look.reference))
    return found
