"""What memory and time are made of, as stacked bars: a line per row."""

from collections.abc import Sequence
from typing import Any

from wasi.report.columns import PAPER, STEP
from wasi.report.fields import significant
from wasi.report.page.figure import Figure, Key, Section, axis_name, line_step, row_axis, spec, tooltip
from wasi.report.page.rows import Row

_MEMORY = {
    "weights": "#3B4A6B",
    "gradients": "#7C93C3",
    "optimizer": "#B07AA1",
    "activations": "#6AA583",
    "temporary": "#D8BE6F",
}
_PAPER_COLOUR = "#9A9A9A"
_TIME = {
    "decomposition": "#8C4A2F",
    "factor_algebra": "#D8895B",
    "attention": "#5F7FA8",
    "optimizer": "#B07AA1",
    "rest": "#B9BFC7",
}
_NAMES = {
    "optimizer": "optimizer state",
    "temporary": "temporaries",
    "decomposition": "decompositions",
    "factor_algebra": "products with factors",
}
_STEP_NAMES = {**_NAMES, "optimizer": "optimizer and clipping"}


def memory(rows: Sequence[Row]) -> Section | None:
    """The measured parts at the peak above the paper's accounting of the same row."""
    values = [value for row in rows for value in _memory_of(row)]
    if not any(value["kind"] == "measured" for value in values):
        return None
    text = (
        "Upper bar: live tensors at the peak of a whole training step, measured, by what they are. Lower bar: the "
        "paper's accounting, computed from shapes: weights of the linear layers in scope and their stored inputs."
    )
    legend = [Key(_NAMES.get(part, part), colour) for part, colour in _MEMORY.items() if _has(values, part, _NAMES)]
    paper = [Key("the paper's accounting", _PAPER_COLOUR)] if any(v["kind"] == "paper" for v in values) else []
    shown = [row for row in rows if any(value["row"] == row.key for value in values)]
    bars = _bars(shown, values, "MiB", {**_named(_MEMORY, _NAMES), "the paper's accounting": _PAPER_COLOUR})
    bars["encoding"]["yOffset"] = {"field": "kind", "sort": ["measured", "paper"], "scale": {"paddingOuter": 0.25}}
    height = {"step": line_step(shown, 40), "for": "position"}
    figure = Figure("Memory of a training step (MiB)", spec(bars, values=values, height=height))
    return Section("Where memory goes", text, [figure], legend + paper, wide=True)


def _memory_of(row: Row) -> list[dict[str, Any]]:
    found = {part: row.group.mean(f"memory/train_{part}_mib") for part in _MEMORY}
    values = [_part(row, "measured", _NAMES.get(part, part), mib, "MiB") for part, mib in found.items()]
    paper = row.cost(PAPER)
    return [value for value in [*values, _part(row, "paper", "the paper's accounting", paper, "MiB")] if value["x"]]


def time(rows: Sequence[Row]) -> Section | None:
    """By benchmark where there is one; else a step's subspace work beside all else."""
    values = [value for row in rows for value in _time_of(row)]
    if not values:
        return None
    text = (
        "Milliseconds of one training step. From a benchmark: mean of a profiled pass of its own, seen from outside, "
        "so that the parts' sum may differ from the median step of the table. From a training run: decompositions, "
        "tangent projection and retraction, and the rest of the median step."
    )
    legend = [
        Key(_STEP_NAMES.get(part, part), colour) for part, colour in _TIME.items() if _has(values, part, _STEP_NAMES)
    ]
    shown = [row for row in rows if any(value["row"] == row.key for value in values)]
    bars = _bars(shown, values, "ms", _named(_TIME, _STEP_NAMES))
    figure = Figure("Time of a training step (ms)", spec(bars, values=values, height={"step": line_step(shown, 26)}))
    return Section("Where a step's time goes", text, [figure], legend, wide=True)


def _time_of(row: Row) -> list[dict[str, Any]]:
    parts = {part: row.group.mean(f"time/breakdown_{part}_ms") for part in _TIME}
    if all(ms is None for ms in parts.values()):
        subspace, step = row.group.mean("time/subspace_ms_p50"), row.group.mean(STEP.metric)
        if subspace is None or step is None or subspace > step:
            return []
        parts = {"decomposition": subspace, "rest": step - subspace}
    values = [_part(row, "measured", _STEP_NAMES.get(part, part), ms, "ms") for part, ms in parts.items()]
    return [value for value in values if value["x"]]


def _part(row: Row, kind: str, part: str, value: float | None, unit: str) -> dict[str, Any]:
    told = f"{significant(value)} {unit}"
    return row.datum(line=axis_name(row), kind=kind, part=part, x=value, told=told)


def _bars(rows: list[Row], values: list[dict], unit: str, colours: dict[str, str]) -> dict[str, Any]:
    present = [part for part in colours if any(value["part"] == part for value in values)]
    scale = {"domain": present, "range": [colours[part] for part in present]}
    order = {part: place for place, part in enumerate(present)}
    for value in values:
        value["order"] = order[value["part"]]
    return {
        "mark": {"type": "bar", "cursor": "pointer"},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "stack": "zero", "title": unit},
            "y": row_axis(rows),
            "color": {"field": "part", "type": "nominal", "scale": scale, "legend": None},
            "order": {"field": "order", "type": "quantitative"},
            "tooltip": tooltip(part="part", told="amount"),
        },
    }


def _named(colours: dict[str, str], names: dict[str, str]) -> dict[str, str]:
    return {names.get(part, part): colour for part, colour in colours.items()}


def _has(values: list[dict], part: str, names: dict[str, str]) -> bool:
    return any(value["part"] == names.get(part, part) for value in values)
