"""The parts of which the page's figures are made: Vega-Lite specifications, sections and legends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from wasi.report.page_rows import Row
from wasi.report.wrapping import wrapped

HEIGHT = 240
_CIRCLE = "M-1,0A1,1,0,1,1,1,0A1,1,0,1,1,-1,0Z"
SHAPES = {
    "o": _CIRCLE,
    "s": "M-.85,-.85H.85V.85H-.85Z",
    "D": "M0,-1.15L1.15,0L0,1.15L-1.15,0Z",
    "d": "M0,-1.2L.8,0L0,1.2L-.8,0Z",
    "^": "M0,-1.1L1.1,.9H-1.1Z",
    "v": "M0,1.1L1.1,-.9H-1.1Z",
    "<": "M-1.1,0L.9,-1.1V1.1Z",
    ">": "M1.1,0L-.9,-1.1V1.1Z",
    "P": "M-.4,-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
    "X": "M-.55,-1.1L0,-.55L.55,-1.1L1.1,-.55L.55,0L1.1,.55L.55,1.1L0,.55L-.55,1.1L-1.1,.55L-.55,0L-1.1,-.55Z",
    "h": "M-1.1,0L-.55,-.95H.55L1.1,0L.55,.95H-.55Z",
    "8": "M-.45,-1.1H.45L1.1,-.45V.45L.45,1.1H-.45L-1.1,.45V-.45Z",
    "p": "M0,-1.1L1.05,-.34L.65,.9H-.65L-1.05,-.34Z",
    "*": "M0,-1.3L.34,-.47L1.24,-.4L.55,.18L.76,1.05L0,.58L-.76,1.05L-.55,.18L-1.24,-.4L-.34,-.47Z",
}
"""matplotlib's markers as SVG paths around the origin, so that page and static figures have the same markers."""

LABELLED = "Beside marks, where there is room: the threshold (of two, weights/activations)."
_PALEST = 0.4  # the opacity of a line that can still be seen on white, also in yellow
_LABEL_WIDTH = 18  # characters of a row's name on an axis, before it goes on in the next line


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a marker by its SVG `path`, or a patch of colour without one.

    `fill` is the opacity inside the marker's rim. `rows` are the numbers of the rows that it stands for; empty for what
    all rows have. With a `dash`, which is empty for a solid line, it shows a line of the given `opacity` instead. With
    `members` it shows these behind its label, and nothing of its own.
    """

    label: str
    colour: str
    path: str | None = None
    fill: float = 1.0
    rows: tuple[int, ...] = ()
    dash: tuple[float, ...] | None = None
    opacity: float = 1.0
    members: "tuple[Key, ...]" = ()


@dataclass(frozen=True)
class Figure:
    """One Vega-Lite specification. The reader can make the `scalable` axes (`x`, `xy`) linear or logarithmic."""

    title: str
    spec: dict[str, Any]
    scalable: str = ""


@dataclass(frozen=True)
class Section:
    """Figures under one heading, with a text that says how to read them.

    `wide` puts one figure into a line. `is_log` says whether scalable axes are logarithmic at first.
    """

    title: str
    text: str
    figures: list[Figure]
    legend: list[Key] = field(default_factory=list)
    wide: bool = False
    is_log: bool = False

    @property
    def is_scalable(self) -> bool:
        return any(figure.scalable for figure in self.figures)


def spec(*layers: dict[str, Any], values: Sequence[dict], height: Any = HEIGHT) -> dict[str, Any]:
    """A figure as wide as its place on the page. `values` are the data of all layers that have none of their own."""
    fit, data = {"type": "fit-x", "contains": "padding"}, {"values": [_short(value) for value in values]}
    return {"width": "container", "height": height, "autosize": fit, "data": data, "layer": list(layers)}


def quantity(field: str, title: str, values: Sequence[float]) -> dict[str, Any]:
    """A channel of numbers whose axis spans them; around a single number it spans 10 % to either side."""
    scale: dict[str, Any] = {"zero": False, "padding": 14}
    if len(set(values)) == 1 and values[0]:
        scale = {"domain": sorted([0.9 * values[0], 1.1 * values[0]])}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale}


def by_series(rows: Sequence[Row], look: Callable[[Row], Any] = lambda row: row.style.colour) -> dict[str, Any]:
    """The channel (colour, shape or dashes) that gives all rows of a series one `look`, by default their colour."""
    looks = {row.series: look(row) for row in rows}
    scale = {"domain": list(looks), "range": list(looks.values())}
    return {"field": "series", "type": "nominal", "legend": None, "scale": scale}


def dash(row: Row) -> list[float]:
    """The dashes of the row's line, which tell apart a method's series, as these share its hue; [] if it is solid."""
    return [] if row.style.line == "-" else list(row.style.line[1])


def shade_by_row(rows: Sequence[Row]) -> dict[str, Any]:
    """The channel of opacities, which tell apart the lines of one series: the lower the threshold, the paler."""
    scale = {"type": "ordinal", "domain": [row.key for row in rows], "range": list(_shades(rows).values())}
    return {"field": "row", "type": "nominal", "legend": None, "scale": scale}


def _shades(rows: Sequence[Row]) -> dict[int, float]:
    """Opacities by the number of the row, from `_PALEST` to 1 within each series, whose rows ascend by threshold."""
    found = {}
    for row in rows:
        keys = [other.key for other in rows if other.series == row.series]
        darker = keys.index(row.key) / (len(keys) - 1) if len(keys) > 1 else 1.0
        found[row.key] = round(_PALEST + (1 - _PALEST) * darker, 3)
    return found


def points(rows: Sequence[Row]) -> dict[str, Any]:
    """Mark and encoding of markers that look as in the static figures; x and y are still to be added."""
    colour, fill = by_series(rows), {"field": "fill", "type": "quantitative", "scale": None}
    shape = by_series(rows, lambda row: SHAPES[row.style.marker])
    look = {"fill": colour, "stroke": colour, "shape": shape, "fillOpacity": fill}
    return {"mark": {"type": "point", "size": 100, "opacity": 1, "cursor": "pointer"}, "encoding": look}


def having(field: str, is_text: bool = False) -> list[dict[str, Any]]:
    """The transform that leaves a layer the records with the field. The page leaves out a layer without any."""
    is_there = {"gte": ""} if is_text else {"valid": True}  # which Vega-Lite takes for "is a finite number"
    return [{"filter": {"field": field, **is_there}}]


def labels(rows: Sequence[Row], x: dict[str, Any], y: dict[str, Any], *, of_lines: bool = False) -> dict[str, Any]:
    """A layer of the texts `label` of records that have one.

    The page puts each beside its point where it covers nothing, and leaves out those for which there is no such place.
    A label of a line stands behind its end and nowhere else, where other lines would seem to be meant.
    """
    return {
        "name": "ends" if of_lines else "labels",  # page.js knows them by these
        "mark": {"type": "text", "fontSize": 10},
        "transform": having("label", is_text=True),
        "encoding": {"x": x, "y": y, "text": {"field": "label"}, "color": by_series(rows)},
    }


def series_legend(rows: Sequence[Row]) -> list[Key]:
    """A key for each series, with its marker."""
    looks = {row.series: row.style for row in rows}
    return [
        Key(name, look.colour, SHAPES[look.marker], look.fill, tuple(row.key for row in rows if row.series == name))
        for name, look in looks.items()
    ]


def line_legend(rows: Sequence[Row], shown: Sequence[Row]) -> list[Key]:
    """A key for each series that is shown, with the line of each of its rows with its `dash` and its shade by
    `shade_by_row` of all `rows`. Of several rows each is named by its threshold."""
    shades = _shades(rows)
    lines: dict[str, list[Key]] = {}
    for row in shown:
        label = row.threshold or row.name
        key = Key(label, row.style.colour, rows=(row.key,), dash=tuple(dash(row)), opacity=shades[row.key])
        lines.setdefault(row.series, []).append(key)
    return [_lines_key(name, keys) for name, keys in lines.items()]


def _lines_key(name: str, keys: list[Key]) -> Key:
    if len(keys) == 1:
        return replace(keys[0], label=name)
    return Key(name, keys[0].colour, rows=tuple(row for key in keys for row in key.rows), members=tuple(keys))


def tooltip(**titles: str) -> list[dict[str, str]]:
    """The fields of a tooltip: the run's name, and then those given as field=title."""
    return [{"field": name, "title": title} for name, title in {"name": "run", **titles}.items()]


def row_axis(rows: Sequence[Row]) -> dict[str, Any]:
    """The y channel of figures with a line for each row, in the table's order."""
    lines = "split(datum.label, '\\n')"
    middle = {"expr": f"-6 * (length({lines}) - 1)"}  # Vega centres the first line: half of the others' height, up
    axis = {"title": None, "labelExpr": lines, "labelLimit": 150, "labelPadding": 6, "labelOffset": middle}
    sort = [axis_name(row) for row in rows]
    return {"field": "line", "type": "nominal", "sort": sort, "axis": {**axis, "domain": False, "ticks": False}}


def axis_name(row: Row) -> str:
    """The row's name broken into lines for an axis."""
    return wrapped(row.name, _LABEL_WIDTH)


def line_step(rows: Sequence[Row], least: int) -> int:
    """The height of a row in pixels, at least `least`, with room for the name of most lines."""
    return max(least, max(13 * (axis_name(row).count("\n") + 1) + 6 for row in rows))


def drawn(rows: Sequence[Row], values: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows to which a figure's records belong."""
    keys = {value["row"] for value in values}
    return [row for row in rows if row.key in keys]


def _short(values: dict[str, Any]) -> dict[str, Any]:
    """The values rounded to six digits, which are more than a screen can show."""
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in values.items()}
