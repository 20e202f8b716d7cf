"""Figures of one run, as images: memory by category beside the paper's accounting, a step's time by part, and ranks."""

import io
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from wasi.tracking.categories import ACCOUNTING, MEMORY, TIME, Category, memory_parts, time_parts
from wasi.tracking.names import FIGURES


def pictures(result: dict[str, Any]) -> dict[str, Image.Image]:
    """Return the figures by their names in W&B; one is absent if the result lacks its numbers.

    Args:
        result: the content of result.json or bench.json.
    """
    is_compiled = bool(result.get("provenance", {}).get("compiled"))
    figures = {
        FIGURES["memory"]: _memory(result["metrics"]),
        FIGURES["time"]: _time(result["metrics"], is_compiled),
        FIGURES["ranks"]: _ranks(result["layers"]),
    }
    return {name: _image(figure) for name, figure in figures.items() if figure is not None}


def _memory(metrics: Mapping[str, float]) -> Figure | None:
    parts = memory_parts(metrics.get)
    if not parts:
        return None
    bars = {"whole step": [(MEMORY[part], mib) for part, mib in parts.items()]}
    if "memory/paper_train_mib" in metrics:
        bars[ACCOUNTING.label] = [(ACCOUNTING, metrics["memory/paper_train_mib"])]
    return _stacked(bars, "memory of a training step (MiB)")


def _time(metrics: Mapping[str, float], is_compiled: bool) -> Figure | None:
    parts = time_parts(metrics.get, is_compiled)
    if not parts.keys() - {"rest"}:  # a bar of a single part shows nothing
        return None
    return _stacked({"step": [(TIME[part], ms) for part, ms in parts.items()]}, "time of a training step (ms)")


def _stacked(bars: Mapping[str, list[tuple[Category, float]]], axis: str) -> Figure:
    """Draw a bar per name, stacked from its parts. The legend has those that a bar's own name does not tell."""
    figure = Figure(figsize=(6, 1.2 + 0.5 * len(bars)), layout="constrained")
    axes = figure.subplots()
    for name, parts in bars.items():
        left = 0.0
        for part, width in parts:
            axes.barh(name, width, left=left, color=part.colour, label=part.label if part.label != name else None)
            left += width
    axes.set_xlabel(axis)
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return figure


def _ranks(layers: list[dict[str, Any]]) -> Figure | None:
    if not any("weight_rank" in layer or "activation_ranks" in layer for layer in layers):
        return None
    series: dict[str, dict[int, float]] = {}
    for index, layer in enumerate(layers):
        if "weight_rank" in layer:
            series.setdefault("weight", {})[index] = layer["weight_rank"]
        for mode, rank in enumerate(layer.get("activation_ranks", ())):
            series.setdefault(f"input, mode {mode + 1}", {})[index] = rank
    figure = Figure(figsize=(6, 1.6 + 0.16 * len(layers)), layout="constrained")
    axes = figure.subplots()
    for (name, ranks), marker in zip(series.items(), "os^Dvx", strict=False):
        axes.plot(list(ranks.values()), list(ranks), marker, label=name, markersize=4)
    axes.set_yticks(range(len(layers)), [layer["name"] for layer in layers], fontsize=6)
    axes.set_xlabel("rank")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=len(series), frameon=False, fontsize=8)
    return figure


def _image(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return Image.open(file)
