"""The figure of time per iteration against epsilon, as in the paper's device figure: training step and inference.

A method with a threshold is a line over epsilon; a method without one is a single marker to the right of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import matplotlib
from matplotlib.figure import Figure

from wasi.bench.jobs import baselines, series_names
from wasi.config.declared import declared_order
from wasi.config.rank_thresholds import threshold
from wasi.report.figures import DPI, WIDTH_INCHES, add_legend, images
from wasi.report.load import Run
from wasi.report.style import SETTINGS, styles

_PANELS = {"time/train_step_ms": "Training step", "time/inference_ms": "Inference"}


@dataclass
class Series:
    """Jobs that differ only in their thresholds; `points` are (epsilon or method name, metrics)."""

    method: str
    points: list[tuple[float | str, dict]] = field(default_factory=list)

    def timed(self, kind: str) -> list[tuple[float | str, float, float]]:
        """Return (epsilon or method name, p50, p90) of each point where `kind` was timed."""
        return [(x_value, m[f"{kind}_p50"], m[f"{kind}_p90"]) for x_value, m in self.points if f"{kind}_p50" in m]


def draw(jobs: list[Run], heading: str = "") -> dict[str, bytes]:
    """Draw the jobs of one block; returns the figure's bytes as `png` and as `svg`, or {} if nothing was timed."""
    series = _series(jobs)
    if not series:
        return {}
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH_INCHES, 2.9), dpi=DPI, layout="constrained")
        axes = figure.subplots(1, len(_PANELS))
        for ax, (kind, title) in zip(axes, _PANELS.items(), strict=True):
            _panel(ax, series, kind, title)
        figure.suptitle(heading, fontsize=9, fontweight="bold")
        add_legend(figure, axes, list(series))
        return images(figure)


def _series(jobs: list[Run]) -> dict[str, Series]:
    """Return name -> series of the completed jobs; baselines are added unless they are jobs themselves."""
    series: dict[str, Series] = {}
    jobs = [job for job in jobs if job.completed]
    if not jobs:
        return {}
    for name, job in zip(series_names(jobs), jobs, strict=True):
        series.setdefault(name, Series(job.config["method"]["name"])).points.append((_x_value(job.config), job.metrics))
    for base in baselines(jobs).values():
        if not base.is_job:
            short = base.name.removesuffix(" (baseline)")
            name = base.name if short in series else short
            method = base.run.config["method"]["name"]
            series[name] = Series(method, [(_x_value(base.run.config), base.run.metrics)])
    return {name: one for name, one in series.items() if any(one.timed(kind) for kind in _PANELS)}


def _x_value(config: dict) -> float | str:
    """Return the threshold, or the method's name where there is none."""
    epsilon = threshold(config)
    return config["method"]["name"] if epsilon is None else epsilon


def _panel(ax, series: dict[str, Series], kind: str, title: str) -> None:
    ticks = _ticks(x_value for one in series.values() for x_value, _ in one.points)
    unit, scale = _unit([p50 for one in series.values() for _, p50, _ in one.timed(kind)])
    looks = styles([one.method for one in series.values()])
    for (name, one), style in zip(series.items(), looks, strict=True):
        found = sorted((ticks[x_value], p50 * scale, p90 * scale) for x_value, p50, p90 in one.timed(kind))
        if not found:
            continue
        x, y, top = zip(*found, strict=True)
        up = [high - middle for high, middle in zip(top, y, strict=True)]
        marks = {**style.marks(), **({} if len(x) > 1 else {"linestyle": "none"})}
        ax.errorbar(x, y, yerr=[[0] * len(up), up], fmt="none", ecolor=style.colour, elinewidth=0.9, capsize=2)
        ax.plot(x, y, label=name, **marks)
    ax.set_xticks(list(ticks.values()), [str(x_value) for x_value in ticks])
    for label, x_value in zip(ax.get_xticklabels(), ticks, strict=True):
        if isinstance(x_value, str):  # names are longer than thresholds
            label.set(rotation=25, ha="right", rotation_mode="anchor")
    ax.set_xlabel(r"$\varepsilon$ (whisker: p90)")
    ax.set_ylabel(f"Time per iteration ({unit})")
    ax.set_title(title, loc="left", fontsize=9)
    ax.set_ylim(bottom=0)
    ax.margins(x=0.08)


def _ticks(x_values: Iterable[float | str]) -> dict[float | str, int]:
    """Return position by threshold or name: thresholds ascending, then methods, in reverse of their declared order."""
    distinct = set(x_values)
    thresholds: list[float | str] = [*sorted(p for p in distinct if not isinstance(p, str))]
    names = sorted((p for p in distinct if isinstance(p, str)), key=declared_order, reverse=True)
    return {x_value: position for position, x_value in enumerate([*thresholds, *names])}


def _unit(milliseconds: list[float]) -> tuple[str, float]:
    return ("s", 1e-3) if milliseconds and max(milliseconds) >= 2000 else ("ms", 1.0)
