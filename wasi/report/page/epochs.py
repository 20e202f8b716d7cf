"""The page's figures over epochs: losses and accuracy, and with `train.monitor=true` ranks and subspaces."""

import csv
import math
import statistics as numbers
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from wasi import file_names
from wasi.report import titles
from wasi.report.fields import significant
from wasi.report.load import Run
from wasi.report.page.figure import (
    Figure,
    Section,
    by_series,
    dash,
    drawn,
    labels,
    line_legend,
    quantity,
    shade_by_row,
    spec,
    tooltip,
)
from wasi.report.page_rows import Row

_CURVES = {"train/loss": "Training loss, mean of the epoch", **titles.VALIDATION_CURVES}
_MOST_TICKS = 6
_MOST_ROOM = 0.25  # the share of an axis that is left to labels
_MOST_POINTS = 120  # in a line; a panel has no room for more


def curves(rows: Sequence[Row]) -> Section | None:
    """The section of losses and accuracy as means over the seeds; no accuracy of rows where it must not be quoted."""
    text = "After every epoch that was evaluated; the mean over the seeds, and their range as a band."
    panels = []
    for metric, title in _CURVES.items():
        able = [row for row in rows if row.group.is_quotable or not metric.endswith("acc")]
        panels.append((title, title, [value for row in able for value in _curve(row, metric)]))
    return _section(titles.CURVES, text, rows, panels, "seeds")


def _curve(row: Row, metric: str) -> list[dict[str, Any]]:
    by_epoch: dict[int, list[float]] = {}
    for run in row.group.trained:
        for entry in run.history:
            value, epoch = entry.get(metric), entry.get("epoch")
            if isinstance(value, (int, float)) and math.isfinite(value) and isinstance(epoch, int):
                by_epoch.setdefault(epoch, []).append(value)
    return _points(row, by_epoch, _mean_and_range)


def stability(rows: Sequence[Row]) -> Section | None:
    """The section of ranks and subspaces as medians over layers and seeds, with the middle 80 % as a band."""
    text = (
        "Of every compressed layer, before training (epoch 0) and after each epoch: the median over layers and "
        "seeds, and the middle 80 % as a band. A rank that stays near 1 and an angle that stays small mean that the "
        "ranks chosen before training still fit."
    )
    watched = {row.key: [_by_epoch(run) for run in row.group.trained] for row in rows}
    panels = [
        (title, axis, [value for row in rows for value in _watched(row, watched[row.key], name)])
        for name, (title, axis) in titles.STABILITY_FIGURES.items()
    ]
    return _section(titles.STABILITY, text, rows, panels, "layers")


def _section(
    title: str, text: str, rows: Sequence[Row], panels: list[tuple[str, str, list[dict]]], counted: str
) -> Section | None:
    """A section with a figure for each panel that has records; None if none has any.

    Args:
        panels: for each its title, its axis title and its records.
        counted: the word for what a record's `count` is the number of (seeds, say).
    """
    figures = [Figure(name, _lines(rows, values, axis, counted)) for name, axis, values in panels if values]
    seen = drawn(rows, [value for *_, values in panels for value in values])
    if len({row.series for row in seen}) < len(seen):
        text += (
            " Of lines in one colour and with the same dashes the paler has the lower threshold, which is printed at "
            "the line's end where there is room."
        )
    return Section(title, text, figures, line_legend(rows, seen)) if figures else None


def _watched(row: Row, runs: list[dict[int, dict]], name: str) -> list[dict[str, Any]]:
    by_epoch: dict[int, list[float]] = {}
    for epochs in runs:
        start = epochs.get(0, {})
        for epoch, layers in epochs.items():
            by_epoch.setdefault(epoch, []).extend(filter(math.isfinite, _values(layers, start, name)))
    return _points(row, by_epoch, _median_and_middle)


def _values(layers: dict, start: dict, name: str) -> Iterable[float]:
    for key, columns in layers.items():
        if name == "variance":
            explained = [value for column, value in columns.items() if column.endswith("_variance")]
            yield from explained[-1:]  # the last mode is the features
        elif name in columns:
            before = start.get(key, {}).get(name) if name == "rank_at_threshold" else 1.0
            if before:
                yield columns[name] / before


def _by_epoch(run: Run) -> dict[int, dict[tuple[str, str], dict[str, float]]]:
    """The numbers of the run's monitor.csv by epoch, by (layer, call) and by column; empty without such a file."""
    found: dict[int, dict] = {}
    for line in _read(run.path.parent / file_names.MONITOR):
        try:
            values = {k: float(v) for k, v in line.items() if v and k not in ("epoch", "step", "layer", "call")}
            found.setdefault(int(line["epoch"]), {})[line["layer"], line["call"]] = values
        except (KeyError, TypeError, ValueError):
            continue  # a line that was cut short
    return found


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):  # the last for null characters, up to Python 3.10
        return []


def _points(row: Row, by_epoch: dict[int, list[float]], summed: Callable) -> list[dict[str, Any]]:
    """A record for each epoch with values; of more than `_MOST_POINTS` only every so many-th and the last.

    Args:
        summed: a function that gives the middle, the low and the high end of a list of values.
    """
    points = []
    for epoch, found in sorted(by_epoch.items()):
        if found:
            middle, low, high = summed(found)
            amount = significant(middle)
            points.append(row.datum(epoch=epoch, y=middle, low=low, high=high, count=len(found), amount=amount))
    points[-1:] = [point | row.label() for point in points[-1:]]
    step = -(-len(points) // _MOST_POINTS) or 1
    return [point for index, point in enumerate(points) if index % step == 0 or index == len(points) - 1]


def _mean_and_range(found: list[float]) -> tuple[float, float, float]:
    return numbers.fmean(found), min(found), max(found)


def _median_and_middle(found: list[float]) -> tuple[float, float, float]:
    """The median and the bounds of the middle 80 %."""
    ordered = sorted(found)
    cut = len(ordered) // 10
    return numbers.median(ordered), ordered[cut], ordered[-1 - cut]


def _lines(rows: Sequence[Row], values: list[dict], axis: str, counted: str) -> dict[str, Any]:
    seen = drawn(rows, values)
    last = max(value["epoch"] for value in values)
    ticks = list(range(0, last + 1, max(1, -(-last // _MOST_TICKS))))
    x = {"field": "epoch", "type": "quantitative", "title": "epoch", "axis": {"values": ticks, "format": "d"}}
    x["scale"] = {"nice": False, "zero": False, "padding": 8, **_room(values)}
    y = quantity("y", axis, [value[bound] for value in values for bound in ("y", "low", "high")])
    colour, shade, detail = by_series(seen), shade_by_row(rows), {"field": "row"}
    band = {
        "mark": {"type": "area", "opacity": 0.13},
        "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour, "detail": detail},
    }
    dashes = by_series(seen, dash)
    line = {
        "mark": {"type": "line", "strokeWidth": 1.6},
        "encoding": {"x": x, "y": y, "detail": detail, "color": colour, "opacity": shade, "strokeDash": dashes},
    }
    hover = tooltip(epoch="epoch", amount=axis, count=counted)
    point = {
        "mark": {"type": "point", "filled": True, "size": 22, "cursor": "pointer"},
        "encoding": {"x": x, "y": y, "color": colour, "opacity": shade, "tooltip": hover},
    }
    return spec(band, line, point, labels(seen, x, y, of_lines=True), values=values)


def _room(values: list[dict]) -> dict[str, float]:
    """The end of an axis of epochs that leaves room for labels behind the lines' ends; {} without labels."""
    longest = max((len(value["label"]) for value in values if "label" in value), default=0)
    first, last = (choose(value["epoch"] for value in values) for choose in (min, max))
    share = min(0.03 + 0.02 * longest, _MOST_ROOM)  # a narrow view has some 300 pixels, and a character takes 6
    return {"domainMax": last + share * (last - first)} if longest and last > first else {}
