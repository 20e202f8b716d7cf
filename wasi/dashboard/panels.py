"""The content of a dashboard as objects of `wandb_workspaces`: columns of the runs' table, and sections of panels.

Imports that package, which is optional, so only `wasi.dashboard.specification` imports this module.
"""

from dataclasses import dataclass

import wandb_workspaces.reports.v2 as wr

from wasi.report import titles
from wasi.report.columns import (
    ACCURACY_NAMES,
    COSTS,
    INFERENCE,
    INTERACTIVE_PANELS,
    PAPER,
    PEAK,
    PREDICTIONS,
    PROCESS,
    STEP,
    TEST,
    Prediction,
)
from wasi.tracking.categories import MEMORY, TIME, memory_metric, time_metric
from wasi.tracking.names import EPSILON, FIGURES, LAYER_TABLE, ROW, THRESHOLDS, TRAIN_STEP

_OF_THRESHOLDS = (f"{THRESHOLDS}.weights", f"{THRESHOLDS}.activations")
_OPTIONS = (ROW, "method.name", *_OF_THRESHOLDS, "optimizer._target_", "optimizer.lr", "train.memory", "seed")
"""Columns of the table: the row, and what its hash most often stands for."""
_LEGEND = f"${{config:{ROW}}}"
_STEPS = "optimizer step"
_MOST = 100  # rows drawn per panel; W&B's default is 10

_TITLES_OF_STABILITY = {  # W&B shows the ranks themselves, and all modes of every layer
    "rank_at_threshold": titles.STABILITY_FIGURES["rank_at_threshold"][0],
    "mode[0-9]+_variance": "Explained variance of the saved inputs, by mode: share of the variance",
    **{name: ": ".join(titles.STABILITY_FIGURES[name]) for name in ("angle_mean_deg", "tucker_error")},
}
"""Titles by a regular expression for columns of monitor.csv."""


@dataclass(frozen=True)
class Section:
    """A section of the dashboard: its heading, a sentence on its content, and its panels."""

    title: str
    about: str
    panels: list


def table_columns() -> list[str]:
    """Return the columns of the runs' table from left to right, in W&B's notation (`config:...`, `summary:...`)."""
    metrics = (*ACCURACY_NAMES, *(cost.metric for cost in COSTS))
    return [*map(config_column, _OPTIONS), *(f"summary:{metric}" for metric in metrics)]


def config_column(option: str) -> str:
    """Return W&B's name of the column for an option.

    >>> config_column("method.name"), config_column("seed")
    ('config:method.value.name', 'config:seed.value')
    """
    section, _, key = option.partition(".")
    return f"config:{section}.value.{key}" if key else f"config:{section}.value"


def sections() -> list[Section]:
    """Return the sections of workspace and report: those of report.html in its order, and one of all thresholds."""
    return [
        Section(titles.ACCURACY, "Up and to the left is better; both axes can be zoomed.", _accuracy()),
        Section(
            titles.MEMORY,
            "Measured peak of a whole training step, its parts, and the paper's accounting, computed from shapes.",
            _memory(),
        ),
        Section(
            titles.TIME,
            "Medians of a whole training step, of its subspace work, and of inference. Parts of a step are means of a "
            "separate pass under a profiler, which benchmarks alone have.",
            _time(),
        ),
        Section(
            titles.EPSILON,
            "By explained-variance threshold (of the weights; where they are dense, of the activations). A method "
            "without a threshold has no mark.",
            _epsilon(),
        ),
        Section(
            titles.SAVINGS,
            "Where both axes have the same value, a saving is as large as predicted; below, it is smaller. Panels of "
            "baseline / this are of benchmarks, the others of every run. The paper's accounting counts the compressed "
            "kind of linear layers alone, and FLOPs take no account of how well a machine computes them.",
            _savings(),
        ),
        Section(titles.RANKS, "Before training.", _ranks()),
        Section(titles.STABILITY, "Of every compressed layer, after each epoch (train.monitor=true).", _stability()),
        Section(titles.CURVES, "The mean over the seeds, and their range as a band.", _curves()),
        Section("Thresholds", "From the thresholds through the costs to the accuracy.", [_thresholds()]),
    ]


def _accuracy() -> list:
    accuracy = f"{ACCURACY_NAMES[TEST].capitalize()} accuracy"
    return [
        _scatter(_against(accuracy, cost.stored_axis), wr.SummaryMetric(cost.metric), TEST, log_x=True)
        for cost in INTERACTIVE_PANELS
    ]


def _memory() -> list:
    return [
        *(_bars(cost.stored_axis, cost.metric) for cost in (PEAK, PROCESS, PAPER)),
        _bars(f"{titles.MEMORY_OF_A_STEP}, by part", *map(memory_metric, MEMORY)),
        wr.MediaBrowser(title="Each run's memory, by part", media_keys=[FIGURES["memory"]], num_columns=2),
    ]


def _time() -> list:
    subspace = TIME["subspace"].label.capitalize()
    return [
        _bars(STEP.stored_axis, STEP.metric),
        _bars(f"{subspace} (ms)", "time/subspace_ms_p50"),
        _bars(INFERENCE.stored_axis, INFERENCE.metric),
        _bars(f"{titles.TIME_OF_A_STEP}, by part", *(time_metric(part) for part in TIME if part != "subspace")),
        wr.MediaBrowser(title="Each run's step, by part", media_keys=[FIGURES["time"]], num_columns=2),
    ]


def _epsilon() -> list:
    return [
        _scatter(_against(cost.stored_axis, "epsilon"), wr.Config(f"{THRESHOLDS}.{EPSILON}"), cost.metric)
        for cost in (STEP, INFERENCE)
    ]


def _savings() -> list:
    return [*map(_ratios, PREDICTIONS), *map(_costs, PREDICTIONS)]


def _ratios(one: Prediction):
    """Make a plot of the savings of benchmarks, which send W&B the ratios to the baseline's costs."""
    predicted, measured = (f"ratio/{cost.metric}" for cost in (one.predicted, one.measured))
    title = f"{one.of}: baseline / this (×), measured against predicted {one.by}"
    return _scatter(title, wr.SummaryMetric(predicted), measured)


def _costs(one: Prediction):
    """Make a plot of the costs themselves, for runs without a baseline; on logarithms, equal ratios are equally far."""
    title = _against(one.measured.stored_axis, one.predicted.stored_axis)
    return _scatter(title, wr.SummaryMetric(one.predicted.metric), one.measured.metric, log_x=True, log_y=True)


def _ranks() -> list:
    return [
        wr.MediaBrowser(title="Each run's ranks", media_keys=[FIGURES["ranks"]], num_columns=2),
        wr.WeavePanelSummaryTable(table_name=LAYER_TABLE),
    ]


def _stability() -> list:
    return [
        wr.LinePlot(title=title, x=TRAIN_STEP, title_x=_STEPS, metric_regex=f"monitor/.*/{column}")
        for column, title in _TITLES_OF_STABILITY.items()
    ]


def _curves() -> list:
    curves = {"train/loss": "Training loss", **titles.VALIDATION_CURVES, "lr": "Learning rate"}
    return [_lines(title, metric) for metric, title in curves.items()]


def _thresholds():
    options = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(option)) for option in _OF_THRESHOLDS]
    metrics = [
        wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(metric))
        for metric in (PEAK.metric, STEP.metric, TEST)
    ]
    return wr.ParallelCoordinatesPlot(title="Thresholds, costs and accuracy", columns=[*options, *metrics])


def _against(y: str, x: str) -> str:
    """Return the title of a plot, of which W&B shows no other names of axes than keys.

    >>> _against("Test accuracy", "Peak memory of a training step (MiB)")
    'Test accuracy against peak memory of a training step (MiB)'
    """
    return f"{y} against {x[0].lower()}{x[1:]}"


def _scatter(title: str, x: wr.SummaryMetric | wr.Config, y: str, log_x: bool = False, log_y: bool = False):
    """Make a scatter plot with a mark for every run, of the metric `y` over the metric or option `x`."""
    return wr.ScatterPlot(
        title=title, x=x, y=wr.SummaryMetric(y), log_x=log_x, log_y=log_y, legend_template=_LEGEND
    )


def _bars(title: str, *metrics: str):
    """Make a bar chart: of one metric, a bar per row with the mean over seeds; of several, bars for each run."""
    return wr.BarPlot(
        title=title,
        metrics=list(metrics),
        groupby=wr.Config(ROW) if len(metrics) == 1 else None,
        groupby_aggfunc="mean" if len(metrics) == 1 else None,
        max_runs_to_show=_MOST,
        max_bars_to_show=_MOST,
    )


def _lines(title: str, metric: str):
    """Make a line plot over optimizer steps: per row the mean over seeds, and a band from minimum to maximum."""
    return wr.LinePlot(
        title=title,
        x=TRAIN_STEP,
        y=[metric],
        title_x=_STEPS,
        groupby=wr.Config(ROW),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=_MOST,
    )
