"""The page's heat maps of the rank of each layer."""

import re
from collections.abc import Sequence
from os.path import commonprefix
from typing import Any

from wasi.report import statistics, titles
from wasi.report.page.figure import Figure, Section, axis_name, drawn, line_step, row_axis, spec, tooltip
from wasi.report.page.page_rows import Row

_TEXT = (
    "A column per compressed linear layer, in the model's order; the darker, the smaller the share of the full "
    "rank that is kept. White: kept whole. Several seeds: the mean rank."
)
_LONGEST = 24  # characters of a layer's name below the map; of a longer one its end, which tells layers apart
_MOST_PIXELS = 300  # for so many wide letters; by default Vega prints an axis's title across what is beyond 200


def section(rows: Sequence[Row]) -> Section | None:
    """The section; None if no row has a layer of reduced rank."""
    order = list(dict.fromkeys(layer["name"] for row in rows for layer in _layers(row)))
    weights = [value for row in rows for value in _weights(row)]
    inputs = [value for row in rows for value in _inputs(row)]
    maps = {"Rank of the weights": weights, "Rank of the saved inputs' features": inputs}
    figures = [_map(title, values, rows, order) for title, values in maps.items() if values]
    return Section(titles.RANKS, _TEXT, figures, wide=True) if figures else None


def _map(title: str, values: list[dict], rows: Sequence[Row], order: list[str]) -> Figure:
    shown, named = drawn(rows, values), {value["layer"] for value in values}
    layers = [name for name in order if name in named]
    shared = _shared_start(layers)
    axis = {
        "title": f"layer: {shared}…" if shared else "layer",
        "labelExpr": _shortened(f"slice(datum.label, {len(shared)})"),
        "labelAngle": -90, "labelLimit": 0, "labelOverlap": True, "ticks": False, "domain": False,
        "maxExtent": _MOST_PIXELS,
    }  # fmt: skip
    legend = {"title": "share of full rank", "orient": "top", "format": ".0%", "gradientLength": 160}
    scale = {"domain": [0, 1], "range": ["#123B5D", "#3C7FA8", "#A9CDE0", "#F4F8FA"]}
    cells = {
        "mark": {"type": "rect", "cursor": "pointer", "stroke": "#808080", "strokeWidth": 0.2},
        "encoding": {
            "x": {"field": "layer", "type": "ordinal", "sort": layers, "axis": axis},
            "y": row_axis(shown),
            "color": {"field": "share", "type": "quantitative", "scale": scale, "legend": legend},
            "tooltip": tooltip(layer="layer", amount="rank"),
        },
    }
    return Figure(title, spec(cells, values=values, height={"step": line_step(shown, 24)}))


def _shortened(name: str) -> str:
    """The Vega expression for at most the last `_LONGEST` characters of what the expression `name` gives."""
    return f"length({name}) > {_LONGEST} ? '…' + slice({name}, -{_LONGEST - 1}) : {name}"


def _shared_start(names: list[str]) -> str:
    """What all names begin with, up to its last `.` or `_`.

    >>> _shared_start(["blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.11.mlp.fc1"])
    'blocks.'
    """
    return re.sub(r"[^._]*$", "", commonprefix(names))


def _layers(row: Row) -> list[dict]:
    return next((run.layers for run in row.group.trained if run.layers), [])


def _weights(row: Row) -> list[dict[str, Any]]:
    found = []
    for layer in _layers(row):
        rank, full = _mean(row, layer["name"], lambda other: other.get("weight_rank")), _full(layer)
        if rank is not None and full:
            text = f"{rank:g} of {full}; {layer['in_features']} → {layer['out_features']}"
            found.append(_cell(row, layer, rank / full, text))
    return found


def _inputs(row: Row) -> list[dict[str, Any]]:
    found = []
    for layer in _layers(row):
        rank = _mean(row, layer["name"], lambda other: (other.get("activation_ranks") or [None])[-1])
        ranks = layer.get("activation_ranks") or []
        if rank is not None and layer.get("in_features"):
            text = f"{rank:g} of {layer['in_features']} features"
            if _are_of_all_seeds(row, layer["name"], ranks):
                text += f"; {'×'.join(map(str, ranks))}, batch first"
            found.append(_cell(row, layer, rank / layer["in_features"], text))
    return found


def _are_of_all_seeds(row: Row, name: str, ranks: list) -> bool:
    """Whether the layer's activation has these ranks with every seed."""
    layers = (layer for run in row.group.trained for layer in run.layers if layer.get("name") == name)
    return all(layer.get("activation_ranks") == ranks for layer in layers)


def _cell(row: Row, layer: dict, share: float, amount: str) -> dict[str, Any]:
    return row.datum(line=axis_name(row), layer=layer["name"], share=min(share, 1.0), amount=amount)


def _mean(row: Row, name: str, read) -> float | None:
    """The mean over seeds of what `read` takes from the layer of that name; None if no seed has it."""
    layers = (layer for run in row.group.trained for layer in run.layers if layer.get("name") == name)
    return statistics.mean([rank for layer in layers if (rank := read(layer)) is not None])


def _full(layer: dict) -> int:
    return min(layer.get("in_features") or 0, layer.get("out_features") or 0)
