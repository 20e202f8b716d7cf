"""Figures of one run, as images: memory by category beside the paper's accounting, and the ranks of its layers."""

import io
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from wasi.tracking.names import FIGURES, MEMORY_PARTS

PART_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#999999")  # Okabe and Ito's, distinct to the colour-blind
_PARTS = dict(zip(MEMORY_PARTS, PART_COLOURS, strict=True))


def pictures(result: dict[str, Any]) -> dict[str, Image.Image]:
    """Return the figures by their names in W&B; one is absent if the result lacks its numbers."""
    figures = {FIGURES["memory"]: _memory(result["metrics"]), FIGURES["ranks"]: _ranks(result["layers"])}
    return {name: _image(figure) for name, figure in figures.items() if figure is not None}


def _memory(metrics: dict[str, float]) -> Figure | None:
    names = {part: f"memory/train_{part}_mib" for part in _PARTS}
    if not all(name in metrics for name in names.values()):
        return None
    figure = Figure(figsize=(6, 2.2), layout="constrained")
    axes, left = figure.subplots(), 0.0
    for part, name in names.items():
        axes.barh("whole step", metrics[name], left=left, color=_PARTS[part], label=part)
        left += metrics[name]
    if "memory/paper_train_mib" in metrics:
        axes.barh("paper's accounting", metrics["memory/paper_train_mib"], color="#D55E00")
    axes.set_xlabel("memory of a training step (MiB)")
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=len(_PARTS), frameon=False, fontsize=8)
    return figure


def _ranks(layers: list[dict[str, Any]]) -> Figure | None:
    if not any("weight_rank" in layer or "activation_ranks" in layer for layer in layers):
        return None
    series: dict[str, dict[int, float]] = {}
    for place, layer in enumerate(layers):
        if "weight_rank" in layer:
            series.setdefault("weight", {})[place] = layer["weight_rank"]
        for mode, rank in enumerate(layer.get("activation_ranks", ())):
            series.setdefault(f"input, mode {mode + 1}", {})[place] = rank
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
