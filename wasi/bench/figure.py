"""Time per iteration against epsilon, as in the paper's device figure: one panel to train, one for inference.

Every method with a threshold is a line; one without is a single marker, vanilla the last on the axis.
"""

import io
from collections.abc import Iterable

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wasi.bench.jobs import BenchJob
from wasi.report.options import weight_epsilon
from wasi.report.style import SETTINGS, styles

_PANELS = {"time/train_step_ms": "Training step", "time/inference_ms": "Inference"}
_ALONE = ("lora", "vanilla")  # without a threshold; in the order of the axis' end
DPI = 200


def draw(jobs: list[BenchJob]) -> bytes | None:
    """The figure of one block as PNG; None where nothing was timed."""
    points = _points(jobs)
    if not points:
        return None
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.4, 3.4), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(_PANELS))
        for ax, (kind, title) in zip(axes, _PANELS.items(), strict=True):
            _panel(ax, points, kind, title)
        model, dataset, batch = jobs[0].block
        figure.suptitle(f"{model} on {dataset}, batch {batch}", fontsize=10, fontweight="bold")
        handles = {
            label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6)
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=DPI)
    return image.getvalue()


def _points(jobs: list[BenchJob]) -> dict[str, list[tuple[object, dict]]]:
    """method -> (place on the axis, metrics); the baseline from the first job that timed it, if it is no job."""
    points: dict[str, list[tuple[object, dict]]] = {}
    for job in jobs:
        points.setdefault(job.method, []).append((_place(job.config), job.metrics))
    for job in jobs:
        base = job.content["baseline"]
        if base and base["metrics"] and base["config"]["method"]["name"] not in points:
            points[base["config"]["method"]["name"]] = [(_place(base["config"]), base["metrics"])]
    timed = {
        m: [p for p in found if any(f"{kind}_p50" in p[1] for kind in _PANELS)] for m, found in points.items()
    }
    return {method: found for method, found in timed.items() if found}


def _place(config: dict) -> object:
    """The threshold of the weights, else of the activations, else the method's own name."""
    epsilon = weight_epsilon(config)
    if epsilon is None:
        epsilon = (config["method"].get("activations") or {}).get("epsilon")
    return config["method"]["name"] if epsilon is None else epsilon


def _panel(ax, points: dict[str, list[tuple[object, dict]]], kind: str, title: str) -> None:
    ticks = _ticks(place for found in points.values() for place, _ in found)
    unit, scale = _unit([m[f"{kind}_p50"] for found in points.values() for _, m in found if f"{kind}_p50" in m])
    for (method, found), style in zip(points.items(), styles([(m, m) for m in points]), strict=True):
        found = sorted((p for p in found if f"{kind}_p50" in p[1]), key=lambda p: ticks[p[0]])
        x, y = [ticks[place] for place, _ in found], [m[f"{kind}_p50"] * scale for _, m in found]
        up = [(m[f"{kind}_p90"] - m[f"{kind}_p50"]) * scale for _, m in found]
        marks = {**style.marks(), **({} if len(x) > 1 else {"linestyle": "none"})}
        ax.errorbar(x, y, yerr=[[0] * len(up), up], fmt="none", ecolor=style.colour, elinewidth=0.9, capsize=2)
        ax.plot(x, y, label=method, **marks)
    ax.set_xticks(list(ticks.values()), [str(place) for place in ticks])
    ax.set_xlabel(r"$\varepsilon$ (whisker: p90)")
    ax.set_ylabel(f"Time per iteration ({unit})")
    ax.set_title(title, loc="left", fontsize=9)
    ax.set_ylim(bottom=0)
    ax.margins(x=0.08)


def _ticks(places: Iterable[object]) -> dict[object, int]:
    """Thresholds ascending, then methods without any, vanilla last."""
    distinct = set(places)
    thresholds = sorted(p for p in distinct if not isinstance(p, str))
    names = sorted((p for p in distinct if isinstance(p, str)), key=lambda p: (p in _ALONE, p == "vanilla", p))
    return {place: position for position, place in enumerate([*thresholds, *names])}


def _unit(milliseconds: list[float]) -> tuple[str, float]:
    return ("s", 1e-3) if milliseconds and max(milliseconds) >= 2000 else ("ms", 1.0)
