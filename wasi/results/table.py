"""A table of kept results as Markdown."""

from collections.abc import Collection, Mapping
from typing import Any

from wasi.config.files import select
from wasi.report.columns import FLOPS, INFERENCE, PEAK, PROCESS, STEP, Cost
from wasi.report.fields import DASH, accuracy_column, in_turns_text
from wasi.report.load import Run, threads_of
from wasi.report.options import row_name, show_option
from wasi.report.statistics import Paired
from wasi.results.kept_result import SHARED
from wasi.results.rows import Row, Table, baseline_name
from wasi.results.verdict import sentences

_TITLES = (
    *("", "optimizer, lr", "{accuracy}", "Δ {baseline}, points", "FLOPs", "step", "inference"),
    *("live MiB", "process MiB"),
)
_BRIEF = ("", "{accuracy}", "Δ {baseline}, points", "step", "inference", "live MiB", "process MiB")
_OPTIMIZER = "optimizer._target_"
_ACCURACY = (
    "Accuracy: mean ± sample standard deviation over n seeds; Δ: mean difference to {baseline} on equal seeds and "
    "its 95 % t-interval."
)
_COUNTED = "FLOPs: {baseline}'s forward, backward and subspace work / this row's, counted."
_TIMES = (
    "Step and inference: {baseline}'s time / this row's, both measured in turns, with a 95 % interval; above 1 is "
    "faster."
)
_MEMORY = (
    "live: peak of live tensors in a step, optimizer state included; process: resident peak of the whole process "
    "from its start."
)
_LESS = "In brackets: {baseline}'s / this row's."
_AS = (
    "as X: not trained itself; it differs from X by the memory policy alone, which repeats forward passes and rounds "
    "what passes between blocks (train.storage)."
)
_BOLD = "**Bold**: on the Pareto front of accuracy, step time and live peak; rows without an accuracy are not judged."


def markdown(
    table: Table, only: Collection[str] | None = None, is_brief: bool = False, explained: Collection[str] = ()
) -> str:
    """What the numbers say in sentences, the table, what its columns mean, and where the numbers come from.

    A column without any number is left out.

    Args:
        only: names of the rows to show; None shows all. The sentences are about all rows in either case.
        is_brief: leaves out the sentences, the columns that `_BRIEF` lacks, and the intervals of times.
        explained: sentences of `legend` that are left out, because the same page has them above.
    """
    accuracy = accuracy_column(table.rows[0].group)
    titles = [title.format(accuracy=accuracy, baseline=_baseline(table)) for title in _TITLES]
    shown = _shown(table, only)
    rows = [_cells(row, table, with_intervals=not is_brief) for row in shown]
    wanted = [index for index, title in enumerate(_TITLES) if not is_brief or title in _BRIEF]
    filled = [index for index in wanted if any(cells[index] != DASH for cells in rows)]
    lines = [titles, ["---", "---", *["---:"] * (len(titles) - 2)], *rows]
    lines = [[cells[index] for index in filled] for cells in lines]
    text = "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines)
    verdict = "" if is_brief else "\n".join(f"- {sentence}" for sentence in sentences(table))
    meanings = [] if is_brief else [one for one in legend(table, only) if one not in explained]
    parts = [verdict, text, " ".join(meanings), source(_behind(table, shown))]
    return "\n\n".join(part for part in parts if part)


def legend(table: Table, only: Collection[str] | None = None) -> list[str]:
    """The sentences that explain the columns which the table has with these rows."""
    rows = _shown(table, only)
    applies = {
        _ACCURACY: any(row.accuracies for row in rows),
        _AS: any(row.trained_as for row in rows),
        _COUNTED: any(row.ratio(FLOPS) for row in rows),
        _TIMES: any(row.ratio(STEP) for row in rows),
        _MEMORY: any(row.measured(PEAK) for row in rows),
        _LESS: any(_less(row, PEAK, table) for row in rows),
        _BOLD: any(row.name in table.front for row in rows),
    }
    return [text.format(baseline=_baseline(table)) for text, is_so in applies.items() if is_so]


def _shown(table: Table, only: Collection[str] | None) -> list[Row]:
    return [row for row in table.rows if only is None or row.name in only]


def _behind(table: Table, shown: list[Row]) -> list[Run]:
    """The results of the rows that are shown, and of the baseline that they are compared with."""
    names = {row.name for row in shown} | {_baseline(table)}
    return [run for run in table.runs if row_name(run.config) in names]


def _baseline(table: Table) -> str:
    """The name of the baseline, which may have a row or may only have been measured beside the rows."""
    if table.baseline is not None:
        return table.baseline.name
    return next((base for run in table.runs if run.is_bench and (base := baseline_name(run))), "baseline")


def _cells(row: Row, table: Table, with_intervals: bool) -> list[str]:
    options = row.group.options
    return [
        f"**{row.name}**" if row.name in table.front else row.name,
        f"{optimizer_name(options)}, {options['optimizer.lr']:g}",
        _accuracy(row),
        _difference(table.difference(row)),
        *(in_turns_text(_ratio(row, cost, with_intervals)) for cost in (FLOPS, STEP, INFERENCE)),
        _mib(row, PEAK, table),
        _mib(row, PROCESS, table),
    ]


def optimizer_name(options: Mapping[str, Any]) -> str:
    """The name of the optimizer's class, and whether it has momentum, which not all rows of an optimizer have."""
    momentum = " with momentum" if options.get("optimizer.momentum") else ""
    return f"{show_option(_OPTIMIZER, options[_OPTIMIZER])}{momentum}"


def _ratio(row: Row, cost: Cost, with_interval: bool) -> Mapping[str, float] | None:
    found = row.group.in_turns(cost)
    return found if found is None or with_interval else {"p50": found["p50"]}


def _accuracy(row: Row) -> str:
    if row.mean is None:
        return DASH if row.trained_as is None else f"as {row.trained_as}"
    std = row.group.std(row.group.accuracy)
    spread = "" if std is None else f" ± {std:.4f}"
    return f"{row.mean:.4f}{spread} (n={len(row.accuracies)})"


def _difference(difference: Paired | None) -> str:
    if difference is None:
        return DASH
    return f"{100 * difference.difference:+.2f}{difference.interval_in_points}"


def _mib(row: Row, cost: Cost, table: Table) -> str:
    value = row.measured(cost)
    return DASH if value is None else f"{value:.0f}{_less(row, cost, table)}"


def _less(row: Row, cost: Cost, table: Table) -> str:
    """The baseline's cost divided by the row's, as ` (1.49×)`; "" where the baseline has a row to read it from."""
    ratio = row.ratio(cost) if table.baseline is None else None
    return "" if ratio is None else f" ({ratio:.2f}×)"


def source(runs: list[Run]) -> str:
    """One line with the task, the commit, the version of torch, and the machines of the runs and of the benchmarks."""
    shared = {key: select(runs[0].config, key) for key in SHARED}
    size = f" at {shared['dataset.image_size']} px" if shared["dataset.image_size"] else ""
    images = f"{shared['dataset.train_size']} images of " if shared["dataset.train_size"] else ""
    weights = "" if shared["model.weights"] == "pretrained" else f" ({shared['model.weights']})"
    apart = [[run for run in runs if run.is_bench is is_bench] for is_bench in (False, True)]
    facts = [
        f"{shared['model.name']}{weights} on {images}{shared['dataset.name']}{size}",
        f"batch {shared['dataset.batch_size']}" + (f", epochs {shared['train.epochs']}" if apart[0] else ""),
        f"commit {(runs[0].provenance.get('git_commit') or 'unknown')[:10]}",
    ]
    torch = dict.fromkeys(select(run.provenance, "versions.torch") for run in runs)
    facts.append(f"torch {' and '.join(map(str, torch))}")
    for words, found in zip(("accuracy", "times and memory"), apart, strict=True):
        if where := dict.fromkeys(map(_machine, found)):
            facts.append(f"{words}: {' and '.join(where)}")
    return f"<sub>{', '.join(facts)}.</sub>"


def _machine(run: Run) -> str:
    threads, device = threads_of(run), run.provenance.get("device", "cpu")
    counted = f", {threads}" if threads else ""
    gpu = "" if device == "cpu" else f" and {run.provenance.get('cuda') or device}"
    return f"{select(run.provenance, 'machine.processor')}{counted}{gpu}"
