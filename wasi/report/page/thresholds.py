"""Time against epsilon, as the paper's figure 8, and predicted against measured savings, as its figure 2."""

from collections.abc import Sequence
from typing import Any

from wasi.config.rank_thresholds import threshold
from wasi.report import titles
from wasi.report.columns import INFERENCE, PREDICTIONS, STEP, Prediction
from wasi.report.page.figure import (
    LABELLED,
    Figure,
    Section,
    by_series,
    dash,
    labels,
    points,
    quantity,
    series_legend,
    spec,
    tooltip,
)
from wasi.report.page_rows import Row
from wasi.report.ranking import CostAxis, cost_axis
from wasi.report.style import is_logarithmic


def time(rows: Sequence[Row]) -> Section | None:
    """The section of time against epsilon; None if no method was timed at two thresholds."""
    figures, shown = [], []
    for cost in (STEP, INFERENCE):
        timed = [row for row in rows if row.cost(cost) is not None]
        known = {(row.group.method, epsilon) for row in timed if (epsilon := threshold(row.group.config)) is not None}
        if len(known) > len({method for method, _ in known}):  # some method has two
            axis = cost_axis(cost, [row.comparison for row in rows])
            figures.append(Figure(axis.title, _against_epsilon(axis, timed)))
            shown += timed
    text = (
        "A line per method over its explained-variance threshold (of the weights; where they are dense, of the "
        "activations). A method without a threshold is a level line with its mark at the right end."
    )
    legend = series_legend([row for row in rows if row in shown])
    return Section(titles.EPSILON, text, figures, legend) if figures else None


def _against_epsilon(axis: CostAxis, rows: list[Row]) -> dict[str, Any]:
    x = {"field": "epsilon", "type": "quantitative", "title": "epsilon", "scale": {"zero": False, "padding": 12}}
    y = {"field": "y", "type": "quantitative", "title": axis.title}
    colour, dashes = by_series(rows), by_series(rows, dash)
    hover = tooltip(epsilon="epsilon", amount=axis.cost.axis)
    values = [
        row.datum(epsilon=threshold(row.group.config), y=axis.value(row.comparison), amount=row.cost_text(axis.cost))
        for row in rows
    ]
    with_epsilon = [{"filter": "isValid(datum.epsilon)"}]
    without_epsilon = [{"filter": "!isValid(datum.epsilon)"}]
    level_hover = tooltip(amount=axis.cost.axis)
    level = {
        "mark": {"type": "rule", "strokeWidth": 1.6, "cursor": "pointer"},
        "transform": without_epsilon,
        "encoding": {"y": y, "color": colour, "strokeDash": dashes, "tooltip": level_hover},
    }
    end = {**points(rows), "transform": without_epsilon}
    end["encoding"] |= {"x": {"value": "width"}, "y": y, "tooltip": level_hover}
    line = {
        "mark": {"type": "line", "strokeWidth": 1.6},
        "transform": with_epsilon,
        "encoding": {"x": x, "y": y, "color": colour, "strokeDash": dashes},
    }
    point = {**points(rows), "transform": with_epsilon}
    point["encoding"] |= {"x": x, "y": y, "tooltip": hover}
    return spec(level, end, line, point, values=values)


def savings(rows: Sequence[Row]) -> Section | None:
    """The section of savings predicted from shapes and FLOPs against measured ones; None if no row has both."""
    figures: list[Figure] = []
    shown: list[Row] = []
    ratios: list[float] = []
    for one in PREDICTIONS:
        both = [(row, *found) for row in rows if (found := _ratios(row, one))]
        if both:
            shown += [row for row, *_ in both]
            figures.append(Figure(f"{one.of}: vanilla / this", _against_prediction(both, one), "xy"))
            ratios += [ratio for _, *found in both for ratio in found]
    if not figures:
        return None
    text = (
        "On the dashed line a saving is as large as predicted, below it smaller. The paper's accounting counts "
        "the compressed kind of linear layers alone, and FLOPs take no account of how well a machine computes them."
    )
    text += f" {LABELLED}" if any(row.label() for row in shown) else ""
    legend = series_legend([row for row in rows if row in shown])
    return Section(titles.SAVINGS, text, figures, legend, is_log=is_logarithmic(ratios))


def _ratios(row: Row, one: Prediction) -> tuple[float, float] | None:
    """Vanilla's costs divided by the row's, predicted and measured; None if one of the two is not known."""
    x, y = row.comparison.ratio(one.predicted), row.comparison.ratio(one.measured)
    return None if x is None or y is None or not row.comparison.of_vanilla else (x, y)


def _against_prediction(rows: list[tuple[Row, float, float]], one: Prediction) -> dict[str, Any]:
    """The figure of measured against predicted ratios, with the diagonal on which they agree.

    Args:
        rows: triples of a row, its predicted and its measured ratio.
    """
    values = [row.datum(x=x, y=y, predicted=f"{x:.2f}×", measured=f"{y:.2f}×", **row.label()) for row, x, y in rows]
    ends = [1.0, *(bound for value in values for bound in (value["x"], value["y"]))]
    diagonal = [{"x": bound, "y": bound} for bound in (min(ends), max(ends))]
    axes = {"x": quantity("x", f"predicted {one.by} (×)", ends), "y": quantity("y", f"{one.what} (×)", ends)}
    line = {
        "data": {"values": diagonal},
        "mark": {"type": "line", "strokeDash": [4, 3], "color": "#808080"},
        "encoding": axes,
    }
    hover = tooltip(predicted=f"predicted {one.by}", measured=one.what)
    compared = [row for row, *_ in rows]
    point = points(compared)
    point["encoding"] |= {**axes, "tooltip": hover}
    return spec(line, point, labels(compared, axes["x"], axes["y"]), values=values)
