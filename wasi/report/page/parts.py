"""The page's figures of the parts of memory and time: stacked bars, with a line for each row."""

from collections.abc import Iterable, Sequence
from typing import Any

from wasi.config.files import select
from wasi.report import titles
from wasi.report.columns import PAPER, STEP
from wasi.report.fields import listed_some, significant
from wasi.report.page.figure import Figure, Key, Section, axis_name, drawn, line_step, row_axis, spec, tooltip
from wasi.report.page_rows import Row
from wasi.tracking import categories
from wasi.tracking.categories import ACCOUNTING, MEMORY, TIME, Category

_PARTS_OF_TIME = {
    "decomposition": "Decompositions: of saved inputs, bases and factors, and of the gradients that swan whitens.",
    "factor_algebra": "Products with factors: of low-rank weights or adapters, forward and backward.",
    "attention": "Attention: scores, softmax and weighted values.",
    "rest": "Rest: dense products, norms, activation functions, the loss.",
}


def memory(rows: Sequence[Row]) -> Section | None:
    """The section with, for each row, the measured parts at the peak above the paper's accounting."""
    values = [value for row in rows for value in _memory_of(row)]
    if not any(value["kind"] == "measured" for value in values):
        return None
    text = "Tensors alive at the peak of a whole training step, measured, by what they are."
    if any(value["kind"] == "paper" for value in values):
        text = (
            f"Upper bar: {text[0].lower()}{text[1:]} Lower bar: the paper's accounting, computed from shapes: "
            "weights of the linear layers that the method may compress (method.scope), and the inputs that they store."
        )
    shown, legend = drawn(rows, values), _legend([*MEMORY.values(), ACCOUNTING], values)
    bars = _bars(shown, values, "MiB", legend)
    bars["encoding"]["yOffset"] = {"field": "kind", "sort": ["measured", "paper"], "scale": {"paddingOuter": 0.25}}
    height = {"step": line_step(shown, 40), "for": "position"}
    figure = Figure(titles.MEMORY_OF_A_STEP, spec(bars, values=values, height=height))
    return Section(titles.MEMORY, text, [figure], legend, wide=True)


def _memory_of(row: Row) -> list[dict[str, Any]]:
    found = categories.memory_parts(row.group.mean)
    values = [_part(row, "measured", MEMORY[part], mib, "MiB") for part, mib in found.items()]
    return values + ([_part(row, "paper", ACCOUNTING, paper, "MiB")] if (paper := row.cost(PAPER)) else [])


def time(rows: Sequence[Row]) -> Section | None:
    """The section of a step's time by its profiled parts or, if none was profiled, as subspace work and all else.

    Where some rows were profiled, the others are not drawn but named: the rest of a step without its subspace work has
    attention in it, and beside a profiled row's rest it would read as a step without attention.
    """
    profiled = any(categories.profiled_parts(row.group.mean) for row in rows)
    values = [value for row in rows for value in _time_of(row, profiled)]
    if all(value["part"] == TIME["rest"].label for value in values):  # bars of a single part show nothing
        return None
    shown, legend = drawn(rows, values), _legend(TIME.values(), values)
    labels = {key.label for key in legend}
    shares = " ".join(text for part, text in _PARTS_OF_TIME.items() if TIME[part].label in labels)
    text = (
        "Milliseconds of one training step: means of a separate pass under a profiler, so that the sum of the "
        f"parts may differ from the median step in the table. {shares}"
        if profiled
        else "Milliseconds of one training step: updating the subspaces, and the rest of the median step."
    )
    text += _not_divided([row for row in rows if row not in shown and row.cost(STEP) is not None])
    bars = _bars(shown, values, "ms", legend)
    figure = Figure(titles.TIME_OF_A_STEP, spec(bars, values=values, height={"step": line_step(shown, 26)}))
    return Section(titles.TIME, text, [figure], legend, wide=True)


def _time_of(row: Row, profiled: bool) -> list[dict[str, Any]]:
    """The records of the row's profiled parts or, without `profiled`, of its subspace work and all else.

    [] for a step that was not profiled, or that was not timed or was compiled and cannot be divided.
    """
    if profiled:
        parts = categories.profiled_parts(row.group.mean)
    else:
        parts = {} if select(row.group.config, "device.compile") else categories.halves(row.group.mean)
    return [_part(row, "measured", TIME[part], ms, "ms") for part, ms in parts.items()]


def _not_divided(rows: Sequence[Row]) -> str:
    """A sentence that names the rows whose step was timed as a whole only; "" without any."""
    if not rows:
        return ""
    names = listed_some([row.quoted_name for row in rows])
    return f" Not drawn, as their steps were not divided into parts: {names}."


def _part(row: Row, kind: str, part: Category, value: float, unit: str) -> dict[str, Any]:
    text = f"{significant(value)} {unit}"
    return row.datum(line=axis_name(row), kind=kind, part=part.label, x=value, amount=text)


def _legend(parts: Iterable[Category], values: list[dict]) -> list[Key]:
    """A key for each of the parts that some record has."""
    labels = {value["part"] for value in values}
    return [Key(part.label, part.colour) for part in parts if part.label in labels]


def _bars(rows: list[Row], values: list[dict], unit: str, parts: list[Key]) -> dict[str, Any]:
    scale = {"domain": [part.label for part in parts], "range": [part.colour for part in parts]}
    order = {part.label: index for index, part in enumerate(parts)}
    for value in values:
        value["order"] = order[value["part"]]
    return {
        "mark": {"type": "bar", "cursor": "pointer"},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "stack": "zero", "title": unit},
            "y": row_axis(rows),
            "color": {"field": "part", "type": "nominal", "scale": scale, "legend": None},
            "order": {"field": "order", "type": "quantitative"},
            "tooltip": tooltip(part="part", amount="amount"),
        },
    }
