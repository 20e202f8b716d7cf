"""The content of a dashboard as objects of `wandb_workspaces`: columns of the runs' table, and sections of panels.

Imports that package, which is optional, so only `wasi.dashboard.specification` imports this module.
"""

from dataclasses import dataclass

import wandb_workspaces.reports.v2 as wr

from wasi.report.columns import ACCURACY_NAMES, COSTS, INFERENCE, PANELS, PAPER, PEAK, PROCESS, STEP, TEST, VALIDATION
from wasi.tracking.categories import MEMORY, memory_metric
from wasi.tracking.names import FIGURES, LAYER_TABLE, ROW, THRESHOLDS, TRAIN_STEP

_OF_THRESHOLDS = (f"{THRESHOLDS}.weights", f"{THRESHOLDS}.activations")
_OPTIONS = (ROW, "method.name", *_OF_THRESHOLDS, "optimizer._target_", "optimizer.lr", "train.memory", "seed")
"""Columns of the table: the row, and what its hash most often stands for."""
_LEGEND = f"${{config:{ROW}}}"
_MOST = 100  # rows drawn per panel; W&B's default is 10

_TIMES = {
    "Training step (ms)": STEP.metric,
    "Subspace work (ms)": "time/subspace_ms_p50",
    "Inference (ms)": INFERENCE.metric,
}


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
    """Return the sections of workspace and report, in order."""
    return [
        Section("Accuracy against cost", "Top left is best; both axes can be zoomed.", _accuracy()),
        Section("Memory", "Measured peak of a whole training step, its parts, and the paper's accounting.", _memory()),
        Section("Time", "Medians of a whole training step, of its subspace work, and of inference.", _time()),
        Section("Training", "Loss, accuracy and learning rate over optimizer steps.", _training()),
        Section("Ranks", "Ranks per layer before training; over epochs with train.monitor=true.", _ranks()),
        Section("Thresholds", "From the thresholds through the costs to the accuracy.", [_thresholds()]),
    ]


def _accuracy() -> list:
    return [
        wr.ScatterPlot(
            title=f"{TEST} against {cost.metric}",
            x=wr.SummaryMetric(cost.metric),
            y=wr.SummaryMetric(TEST),
            log_x=True,
            legend_template=_LEGEND,
        )
        for cost in PANELS
    ]


def _memory() -> list:
    parts = map(memory_metric, MEMORY)
    return [
        _bars("Peak of a training step (MiB)", PEAK.metric),
        _bars("Its parts (MiB)", *parts),
        _bars("Whole process (MiB)", PROCESS.metric),
        _bars("The paper's accounting (MiB)", PAPER.metric),
        wr.MediaBrowser(title="Memory by category", media_keys=[FIGURES["memory"]], num_columns=2),
    ]


def _time() -> list:
    return [_bars(title, metric) for title, metric in _TIMES.items()]


def _training() -> list:
    return [
        _lines("Training loss", "train/loss"),
        _lines("Validation loss", "val/loss"),
        _lines("Validation accuracy", VALIDATION),
        _lines("Learning rate", "lr"),
    ]


def _ranks() -> list:
    return [
        wr.MediaBrowser(title="Ranks per layer", media_keys=[FIGURES["ranks"]], num_columns=2),
        wr.WeavePanelSummaryTable(table_name=LAYER_TABLE),
        wr.LinePlot(title="Rank at the threshold", x=TRAIN_STEP, metric_regex="monitor/.*rank_at_threshold"),
        wr.LinePlot(title="Angle to the start (degrees)", x=TRAIN_STEP, metric_regex="monitor/.*angle_mean_deg"),
    ]


def _thresholds():
    options = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(option)) for option in _OF_THRESHOLDS]
    metrics = [
        wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(metric))
        for metric in (PEAK.metric, STEP.metric, TEST)
    ]
    return wr.ParallelCoordinatesPlot(title="Thresholds, costs and accuracy", columns=[*options, *metrics])


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
        title_x="optimizer step",
        groupby=wr.Config(ROW),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=_MOST,
    )
