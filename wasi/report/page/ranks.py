"""The page's heat maps of the rank of each layer."""

import re
from collections.abc import Sequence
from os.path import commonprefix
from typing import Any

from wasi.report import statistics, titles
from wasi.report.page.figure import Figure, Section, axis_name, drawn, line_step, row_axis, spec, tooltip
from wasi.report.page_rows import Row

_TEXT = (
    "A column per compressed linear layer, in the model's order; the darker, the smaller the share of the full "
    "rank that is kept. White: kept whole. Several seeds: the mean rank."
)
_LONGEST = 24  # characters of a layer's name below the map; of a longer one its end, which tells layers apart
_MOST_PIXELS = 300  # for so many wide letters; by default Vega prints an axis's title across what is beyond 200


def section(rows: Sequence[Row]) -> Section | None:
    """The section; None if no row has a layer of reduced rank."""
    order = list(dict.fromkeys(name for row in rows for name in _layers(row)))
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


def _layers(row: Row) -> dict[str, list[dict]]:
    """What result.json says of each layer, by the layer's name: a record for each seed."""
    found: dict[str, list[dict]] = {}
    for run in row.group.trained:
        for layer in run.layers:
            found.setdefault(layer["name"], []).append(layer)
    return found


def _weights(row: Row) -> list[dict[str, Any]]:
    found = []
    for name, layers in _layers(row).items():
        rank = statistics.mean([layer["weight_rank"] for layer in layers if "weight_rank" in layer])
        inputs, outputs = layers[0]["in_features"], layers[0]["out_features"]
        if rank is not None:
            full = min(inputs, outputs)
            found.append(_cell(row, name, rank / full, f"{rank:g} of {full}; {inputs} → {outputs}"))
    return found


def _inputs(row: Row) -> list[dict[str, Any]]:
    found = []
    for name, layers in _layers(row).items():
        ranks = [layer.get("activation_ranks", []) for layer in layers]
        rank, features = statistics.mean([modes[-1] for modes in ranks if modes]), layers[0]["in_features"]
        if rank is not None:
            text = f"{rank:g} of {features} features"
            if all(modes == ranks[0] for modes in ranks):
                text += f"; {'×'.join(map(str, ranks[0]))}, batch first"
            found.append(_cell(row, name, rank / features, text))
    return found


def _cell(row: Row, layer: str, share: float, amount: str) -> dict[str, Any]:
    return row.datum(line=axis_name(row), layer=layer, share=min(share, 1.0), amount=amount)
