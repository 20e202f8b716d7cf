"""The page's figures of accuracy against cost: a panel per cost, with vanilla's accuracy and the Pareto front."""

from collections.abc import Sequence
from typing import Any

from wasi.report import titles
from wasi.report.columns import INTERACTIVE_PANELS, Cost
from wasi.report.origins import are_comparable
from wasi.report.page.figure import (
    LABELLED,
    Figure,
    Section,
    by_series,
    having,
    labels,
    points,
    quantity,
    series_legend,
    spec,
    tooltip,
)
from wasi.report.page_rows import Row
from wasi.report.ranking import CostAxis, cost_axis, is_one_work
from wasi.report.series import references
from wasi.report.style import is_logarithmic


def section(rows: Sequence[Row]) -> Section | None:
    """The section; None if no row has both a cost and an accuracy that may be quoted.

    A cost that a single one of several rows has gets no panel, as there is nothing to compare.
    """
    panels = {cost: [row for row in rows if None not in (row.accuracy, row.cost(cost))] for cost in INTERACTIVE_PANELS}
    most = max(map(len, panels.values()))
    panels = {cost: shown for cost, shown in panels.items() if len(shown) > 1 or len(shown) == most == 1}
    figures, across = [], []
    for cost, shown in panels.items():
        axis = cost_axis(cost, [row.comparison for row in rows])
        figures.append(Figure(axis.title, _panel(axis, shown), "x"))
        across.append([x for row in shown if (x := axis.value(row.comparison)) is not None])
    if not figures:
        return None
    shown = [row for row in rows if any(row in panel for panel in panels.values())]
    return Section(titles.ACCURACY, _text(shown), figures, series_legend(shown), is_log=_is_log(across))


def _is_log(panels: Sequence[Sequence[float]]) -> bool:
    """Whether the panels, which share their buttons, are logarithmic at first: if one alone would be, and all can."""
    return all(min(values, default=1.0) > 0 for values in panels) and any(map(is_logarithmic, panels))


def _text(rows: list[Row]) -> str:
    """The sentences that explain the marks which the figures have."""
    joined = len({row.series for row in rows}) < len(rows)
    spread = any(row.group.std(row.group.accuracy) for row in rows)
    seen = {
        "Up and to the left is better.": len(rows) > 1,
        "Vertical bars: ± standard deviation over the seeds.": spread,
        "Thin lines join configurations that differ by their thresholds alone.": joined,
        "Stepped line: the Pareto front of the panel, whose members no other beats in both; times of a busy "
        "machine, or of several, have none.": len(rows) > 1 and is_one_work([row.group for row in rows]),
        LABELLED: any(row.label() for row in rows),
        "Dashed: vanilla's accuracy.": bool(_references(rows)),
        "Point at a mark for its name and numbers, click it for its options.": True,
    }
    return " ".join(sentence for sentence, is_there in seen.items() if is_there)


def _panel(axis: CostAxis, rows: list[Row]) -> dict[str, Any]:
    title = rows[0].block.accuracy_title
    x = quantity("x", axis.title, [x for row in rows if (x := axis.value(row.comparison)) is not None])
    dashed = _references(rows)
    values = [_datum(row, axis) | ({"reference": 1} if row in dashed else {}) for row in rows]
    y = quantity("y", title, [value[bound] for value in values for bound in ("y", "low", "high") if bound in value])
    colour = by_series(rows)
    hover = tooltip(accuracy=title, cost=axis.cost.axis, seeds="seeds")
    marks = points(rows)
    marks["encoding"] |= {"x": x, "y": y, "tooltip": hover}
    line = {
        "mark": {"type": "line", "strokeWidth": 1, "opacity": 0.55},
        "encoding": {"x": x, "y": y, "color": colour, "detail": {"field": "series"}, "order": {"field": "order"}},
    }
    whisker = {
        "mark": {"type": "rule", "strokeWidth": 1.2},
        "transform": having("low"),
        "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour},
    }
    whiskers = [whisker] if any("low" in value for value in values) else []
    level = {"type": "rule", "strokeDash": [4, 3], "color": "#000000", "opacity": 0.7}
    vanilla = [{"mark": level, "transform": having("reference"), "encoding": {"y": y}}] if dashed else []
    front = [] if _is_spoilt(axis.cost, rows) else [_front(x, y)]
    return spec(*vanilla, *front, line, *whiskers, marks, labels(rows, x, y), values=values)


def _is_spoilt(cost: Cost, rows: list[Row]) -> bool:
    """Whether costs of the rows do not compare: times of a busy or of several machines, or steps of different work."""
    if not is_one_work([row.group for row in rows]):
        return True
    return cost.timed and not are_comparable([run for row in rows for run in row.group.sources(cost.metric)])


def _datum(row: Row, axis: CostAxis) -> dict[str, Any]:
    std = row.group.std(row.group.accuracy)
    mean = row.accuracy
    bounds = {} if std is None or mean is None else {"low": mean - std, "high": mean + std}
    hover = {"accuracy": row.accuracy_text(), "cost": row.cost_text(axis.cost), "seeds": len(row.group.trained)}
    return row.datum(x=axis.value(row.comparison), y=mean, order=row.key, **bounds, **hover, **row.label())


def _references(rows: list[Row]) -> list[Row]:
    """The rows whose accuracy is drawn as a line across the panel."""
    drawn = references([row.comparison for row in rows])
    return [row for row in rows if row.group in drawn]


def _front(x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    """The Pareto front, which the browser finds among the rows that it shows.

    The rows are sorted from the cheapest on, equally cheap ones from the most accurate on. Those that are more accurate
    than all before them are on the front.
    """
    dearer = [{"field": "x"}, {"field": "y", "order": "descending"}]
    best = {"window": [{"op": "max", "field": "y", "as": "best"}], "sort": dearer, "frame": [None, 0]}
    before = {"window": [{"op": "lag", "field": "best", "as": "before"}], "sort": dearer}
    mark = {"type": "line", "interpolate": "step-after", "color": "#808080", "strokeWidth": 3, "opacity": 0.35}
    transform = [best, before, {"filter": "!isValid(datum.before) || datum.y > datum.before"}]
    return {"mark": mark, "transform": transform, "encoding": {"x": x, "y": y}}
