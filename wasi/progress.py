"""Progress of a running sweep: which job of how many, when it will end, and how a finished job compares so far.

The lines go where a job's own lines go, to the terminal and into its log.
"""

import logging
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import TaskFunction
from omegaconf import DictConfig

from wasi import file_names
from wasi.config.declared import is_reference
from wasi.report.blocks import blocks_of
from wasi.report.columns import FLOPS, INFERENCE, PEAK, STEP, Cost
from wasi.report.comparison import Comparison
from wasi.report.fields import name_of, ratio_text, significant
from wasi.report.load import Run, Unusable, read_run
from wasi.report.origins import waited, was_busy
from wasi.runs.ending import printable
from wasi.runs.plan import not_begun, read_plan
from wasi.runs.result import version
from wasi.runs.tuning import is_tuned_sweep
from wasi.runs.tuning_file import is_trial, not_chosen
from wasi.status import clock, duration, jobs, of_plan, seconds_left

log = logging.getLogger(__name__)

_NUMBERS = (PEAK, STEP, INFERENCE, FLOPS)


class ProgressCallback(Callback):
    """Logs a line before each job of a sweep and one after each job that has run, with any launcher."""

    def __init__(self) -> None:
        self._begun: set[Path] = set()

    def on_job_start(self, config: DictConfig, *, task_function: TaskFunction, **kwargs: Any) -> None:
        folder, sweep = _folders(config)
        self._before = _versions(folder)
        if sweep is not None and folder not in self._begun:  # a sweep may have the same job twice
            position = job_position(folder, sweep, config.hydra.job.num)
            log.info("%s: %s", ", ".join(filter(None, [f"job {position}", sweep_state(sweep)])), folder.name)
        self._begun.add(folder)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        folder, sweep = _folders(config)
        if sweep is None or _versions(folder) == self._before:  # skipped: no new result
            return
        choosing = is_tuned_sweep(config.hydra) and is_trial(sweep, folder.name, config.seed)
        if text := numbers(folder, sweep, choosing):
            log.info("job %s done: %s", job_position(folder, sweep, config.hydra.job.num), printable(text))


def _folders(config: DictConfig) -> tuple[Path, Path | None]:
    """Return the job's folder and the sweep's; None for the latter in a single run."""
    folder = Path(config.hydra.runtime.output_dir)
    return folder, Path(config.hydra.sweep.dir) if str(config.hydra.mode).endswith("MULTIRUN") else None


def _versions(folder: Path) -> list[str | None]:
    return [version(folder / name) for name in file_names.RESULTS]


def job_position(folder: Path, sweep: Path, number: int) -> str:
    """Return the job's place in the sweep: `3 of 7`; `3` if the sweeper chooses its jobs as it goes.

    Equal jobs count once. If their folders are not known, it is `3 of at most 7`.

    Args:
        number: the job's place in Hydra's order, from 0.
    """
    total, planned = read_plan(sweep)
    if folder.name in planned:
        return f"{planned.index(folder.name) + 1} of {len(planned)}"
    return f"{number + 1} of at most {total}" if total else str(number + 1)


def sweep_state(sweep: Path) -> str:
    """Return how many jobs have failed so far, and when the sweep will end.

    The estimate assumes that all jobs take as long as those that are completed.
    """
    found = jobs(sweep) if any(True for name in file_names.RESULTS for _ in sweep.glob(f"*/{name}")) else []
    found = of_plan(found, sweep)  # the folder may have unfinished jobs of an earlier command
    lines = []
    if failed := sum(job.status in ("failed", "diverged", "invalid") for job in found):
        lines.append(f"{failed} failed")
    waiting, _ = not_begun(sweep, [job.folder.name for job in found])
    left = seconds_left(found, len(found) + waiting, free=1)
    if left:
        lines.append(f"about {duration(left)} left ({clock(left)})")
    return ", ".join(lines)


def numbers(folder: Path, sweep: Path, choosing: bool = False) -> str:
    """Return a completed job's accuracy and costs, each compared with vanilla's so far, if possible of equal seed.

    Args:
        choosing: whether the sweep chooses among points by this job; then the accuracy is that on validation images.
    """
    run = _read(folder)
    if run is None or not run.completed:
        return ""
    comparison = _comparison(run, sweep)
    accuracy = _validated(run) if choosing else _accuracy(run, comparison)
    parts = [accuracy, *(_cost(cost, run, comparison) for cost in _NUMBERS)]
    without = "; no vanilla to compare with yet" if comparison.baseline is None else ""
    return f"{comparison.group.recipe or name_of(run)}: {', '.join(filter(None, parts))}{without}{_busy(run)}"


def _read(folder: Path) -> Run | None:
    for name in file_names.RESULTS:
        if (folder / name).exists():
            try:
                return read_run(folder / name)
            except Unusable:
                return None
    return None


def _comparison(run: Run, sweep: Path) -> Comparison:
    """Return the run's comparison with the sweep's vanillas, without points of these that tuning has rejected."""
    left_out = not_chosen(sweep) | {run.path.parent.name}
    others = [_read(path.parent) for path in sweep.glob(f"*/{run.path.name}") if path.parent.name not in left_out]
    vanillas = [other for other in others if other and other.completed and is_reference(other.config["method"]["name"])]
    same_seed = [other for other in vanillas if other.config["seed"] == run.config["seed"]]
    return next(
        comparison
        for block in blocks_of([run, *(same_seed or vanillas)])
        for comparison in block.comparisons
        if any(member.fingerprint == run.fingerprint for member in comparison.group.runs)
    )


def _busy(run: Run) -> str:
    """Return a warning that other processes have disturbed the run's times, if they have."""
    if not was_busy([run]):
        return ""
    return f"; busy machine, threads waited {waited(run):.0%} of their time: no time here is to be trusted"


def _accuracy(run: Run, comparison: Comparison) -> str:
    """Format the accuracy of this run alone: its group has other seeds too if it is vanilla's."""
    value, difference = run.metrics.get(comparison.group.accuracy), comparison.accuracy_difference
    if value is None or not comparison.group.is_quotable:
        return ""
    text = f"{comparison.group.accuracy.replace('/', ' ')} {value:.4f}"
    return text if difference is None else f"{text} ({difference:+.4f})"


def _validated(run: Run) -> str:
    return f"val acc {run.metrics['val/acc']:.4f}" if "val/acc" in run.metrics else ""


def _cost(cost: Cost, run: Run, comparison: Comparison) -> str:
    value = run.metrics.get(cost.metric)
    if value is None:
        return ""
    ratio = "" if comparison.is_spoilt(cost) else ratio_text(comparison.ratio(cost))
    return f"{cost.title} {significant(value / cost.unit)}" + (f" ({ratio})" if ratio else "")
