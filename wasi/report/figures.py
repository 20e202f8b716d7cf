"""Static figures of accuracy against cost: one figure per block, one panel per cost."""

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wasi.report.blocks import Block
from wasi.report.columns import PANELS, Cost
from wasi.report.comparison import Comparison
from wasi.report.groups import Group
from wasi.report.labels import Label, annotate
from wasi.report.options import epsilon_label
from wasi.report.ranking import cost_axis
from wasi.report.series import Series, references, series_of
from wasi.report.style import SETTINGS, is_logarithmic
from wasi.report.ticks import label_log_axis
from wasi.report.wrapping import wrapped

DPI = 300
WIDTH_INCHES = 5.5  # of the one column of the paper's text
_COLUMNS, _PANEL_HEIGHT_INCHES, _TITLE_INCHES = 2, 2.3, 0.7
_LEGEND_CHARACTERS = 60  # in one line of the legend; the figure has room for so many wide letters


def draw(block: Block, name: str = "") -> dict[str, bytes]:
    """The figure's bytes as `png` and `svg`; empty if no row has both a cost and an accuracy that may be quoted.

    Args:
        name: the experiment's name, for the figure's title.
    """
    with matplotlib.rc_context(SETTINGS):
        figure = figure_of(block, name)
        return {} if figure is None else images(figure)


def images(figure: Figure) -> dict[str, bytes]:
    """The figure's bytes as `png` and `svg`. The same figure always gives the same bytes."""
    found = {}
    for form, metadata in (("png", {}), ("svg", {"Date": None})):
        image = io.BytesIO()
        figure.savefig(image, format=form, dpi=DPI, metadata=metadata)
        found[form] = image.getvalue()
    return found


def figure_of(block: Block, name: str = "") -> Figure | None:
    """The figure, to be called under `style.SETTINGS`; None where `draw` gives nothing."""
    panels = [cost for cost in PANELS if any(_has_point(group, cost) for group in block.groups)]
    if not panels:
        return None
    rows, columns = math.ceil(len(panels) / _COLUMNS), min(len(panels), _COLUMNS)
    figure = Figure(figsize=(WIDTH_INCHES, _TITLE_INCHES + _PANEL_HEIGHT_INCHES * rows), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    series = series_of(block)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    axes = list(grid.flat)[: len(panels)]
    for unused in list(grid.flat)[len(panels) :]:
        unused.remove()
    labels = [_panel(ax, cost, series, block.comparisons) for ax, cost in zip(axes, panels, strict=True)]
    for first in grid[:, 0]:
        first.set_ylabel(block.accuracy_title)
    points = WIDTH_INCHES * 72
    heading = f"{name}: {block.title}" if name else block.title
    title = figure.suptitle(textwrap.fill(heading, int(points / 5.2)), ha="left", fontsize=9, fontweight="bold")
    caption = textwrap.fill(_caption(block), int(points / 4.3))
    axes[0].set_title(caption, loc="left", fontsize=7, color="#555555")
    axes[0].title.set_in_layout(True)
    add_legend(figure, axes, [one.label for one in series])
    figure.canvas.draw()  # fixes the layout: labels are placed in pixels
    title.set_x(axes[0].get_position().x0)
    for ax, some in zip(axes, labels, strict=True):
        annotate(ax, some)
    return figure


def _panel(ax: Axes, cost: Cost, series: list[Series], comparisons: list[Comparison]) -> list[Label]:
    for vanilla in references(comparisons):
        _reference(ax, vanilla)
    axis = cost_axis(cost, comparisons)
    points = {
        one.group: (x, y)
        for one in comparisons
        if (x := axis.value(one)) is not None and (y := one.group.quoted) is not None
    }
    labels: list[Label] = []
    for one in series:
        if shown := {group: points[group] for group in one.groups if group in points}:
            across = [0.0 if axis.relative else (group.std(cost.metric) or 0.0) / cost.unit for group in shown]
            labels += _line(ax, one, shown, across)
    _cost_axis(ax, axis.title, [x for x, _ in points.values()])
    return labels


def _line(ax: Axes, one: Series, points: dict[Group, tuple[float, float]], across: list[float]) -> list[Label]:
    """Draw one series into one panel, with error bars at points of several seeds; return its points' labels.

    Args:
        points: cost and accuracy of those groups of the series that have both.
        across: the standard deviation of each of these costs, 0 for none.
    """
    style = one.style
    zorder = 4 if style.marker == "*" else 3
    ax.plot(*zip(*points.values(), strict=True), label=one.label, zorder=zorder, **style.marks())
    up = [group.std(group.accuracy) or 0.0 for group in points]
    for axis, stds in (("xerr", across), ("yerr", up)):
        spread = [(*point, std) for point, std in zip(points.values(), stds, strict=True) if std]
        if spread:
            x, y, bars = zip(*spread, strict=True)
            options: dict[str, Any] = {axis: bars, "fmt": "none", "elinewidth": 0.9, "capsize": 2}
            ax.errorbar(x, y, **options, ecolor=style.colour, zorder=2)
    return [
        Label(*point, epsilon_label(group.config), style.text_colour, style.size)
        for group, point in points.items()
    ]


def _reference(ax: Axes, vanilla: Group) -> None:
    """Draw a vanilla's accuracy as a line across the panel, with its standard deviation as a band."""
    mean, std = vanilla.quoted, vanilla.std(vanilla.accuracy)
    if mean is None:
        return
    ax.axhline(mean, color="#000000", linestyle=(0, (4, 3)), linewidth=0.8, zorder=1)
    if std:
        ax.axhspan(mean - std, mean + std, color="#000000", alpha=0.08, linewidth=0, zorder=0)


def _cost_axis(ax: Axes, title: str, values: list[float]) -> None:
    ax.set_xlabel(title)
    ax.margins(x=0.12, y=0.12)
    if is_logarithmic(values):
        ax.set_xscale("log")
        label_log_axis(ax, 0.8 * WIDTH_INCHES / _COLUMNS * 72, SETTINGS["xtick.labelsize"])


def _caption(block: Block) -> str:
    """The sentence under the title that says what labels, bars and lines of this figure mean."""
    parts = []
    labels = [label for group in block.groups if (label := epsilon_label(group.config))]
    if labels:
        both = any("/" in label for label in labels)
        parts.append("points are labelled with epsilon" + (" (weights/activations)" if both else ""))
        if any(label.startswith("keep") for label in labels):
            parts.append("keep: share of a weight's parameters")
    counts = {len(group.trained) for group in block.groups if any(_has_point(group, cost) for cost in PANELS)}
    if max(counts) > 1:
        counts_text = "–".join(map(str, sorted({min(counts), max(counts)})))
        parts.append(f"mean ± standard deviation over {counts_text} seeds")
    if any(vanilla.quoted is not None for vanilla in references(block.comparisons)):
        parts.append("dashed: vanilla")
    return "; ".join(parts)


def add_legend(figure: Figure, axes: Iterable[Axes], order: Sequence[str]) -> None:
    """Draw the legend below the panels, in as many columns as fit, and make the figure taller by it.

    Args:
        order: the labels of series, of which those that are drawn are shown.
    """
    handles: dict[str, Artist] = {}
    for ax in axes:
        handles |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    labels = [label for label in order if label in handles]
    names = [wrapped(label, _LEGEND_CHARACTERS) for label in labels]
    for columns in range(len(labels), 0, -1):
        legend = figure.legend([handles[label] for label in labels], names, loc="outside lower center", ncols=columns)
        size = legend.get_window_extent()
        if size.width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + size.height / figure.dpi)


def _has_point(group: Group, cost: Cost) -> bool:
    """Whether the group's cost and accuracy were both measured, and the accuracy may be quoted."""
    return group.cost(cost) is not None and group.quoted is not None
