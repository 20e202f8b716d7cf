"""Reading the benchmark jobs of a sweep, for the text table, the CSV file and the figures."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wasi import file_names
from wasi.bench.baseline import identity
from wasi.config.files import select
from wasi.config.naming import show
from wasi.report.benchmarks import bench_options
from wasi.report.blocks import Block, block_of, row_names
from wasi.report.groups import Group, row_order
from wasi.report.load import Run, Unusable, machine_of, read_run
from wasi.report.options import data_root, dataset_label, model_label, result_options
from wasi.report.series import series_of


def read_jobs(folder: Path) -> list[Run]:
    """Read all jobs below `folder`, ordered by block and within a block as in every report."""
    found = []
    for path in sorted(folder.rglob(file_names.BENCH)):
        with suppress(Unusable):  # report.html lists unusable files with the reason
            found.append(read_run(path))
    return [job for jobs in by_block(found).values() for job in sorted(jobs, key=lambda job: row_order(_of_steps(job)))]


def by_block(jobs: list[Run]) -> dict[tuple[str, str, str], list[Run]]:
    """Group jobs by model, data set and batch size, in order of first appearance.

    The jobs of such a block share a table and a figure. Folders of images of one name are told apart by their parents.
    """
    roots = [data_root(job.config) for job in jobs]
    found: dict[tuple[str, str, str], list[Run]] = {}
    for job in jobs:
        data, batch = dataset_label(job.config, roots), show(select(job.config, "dataset.batch_size"))
        found.setdefault((model_label(job.config), data, batch), []).append(job)
    return found


@dataclass(frozen=True)
class Baseline:
    """A measured baseline of some jobs of a block, under the `name` that a table gives it.

    `run` is the measurement itself. `is_job` says whether it was also measured as a job of its own.
    """

    name: str
    run: Run
    is_job: bool


def baselines(jobs: list[Run]) -> dict[str, Baseline]:
    """Return the baselines of one block's jobs by `baseline_key`, each that differs in configuration or hardware once.

    Of several measurements the first of a completed job counts.
    """
    found: dict[str, Run] = {}
    for job in sorted(jobs, key=lambda job: not job.completed):
        if job.baseline is not None:
            found.setdefault(_key(job.baseline), job.baseline)
    own = {_key(job): label for label, job in zip(labels(jobs), jobs, strict=True)}
    apart = _block([_with_all_options(run) for key, run in found.items() if key not in own])
    names = {group.runs[0].path: name for group, name in zip(apart.groups, row_names(apart), strict=True)}
    return {
        key: Baseline(own[key], run, True) if key in own else Baseline(f"{names[run.path]} (baseline)", run, False)
        for key, run in found.items()
    }


def baseline_key(job: Run) -> str | None:
    """Return a text that is equal for two jobs with the same baseline on the same hardware; None without one."""
    return None if job.baseline is None else _key(job.baseline)


def _key(run: Run) -> str:
    """Equal for two measurements that would be the same, of memory too, which depends on data and seed."""
    return f"{identity(run.config)} {machine_of(run)}"


def labels(jobs: list[Run]) -> list[str]:
    """Return a row name for each job of one block, as reports do."""
    block = _block_of_jobs(jobs)
    return _for_each(jobs, zip(block.groups, row_names(block), strict=True))


def series_names(jobs: list[Run]) -> list[str]:
    """Return names as `labels` does, but without thresholds: equal for jobs on the same line of a figure."""
    return _for_each(jobs, ((group, one.label) for one in series_of(_block_of_jobs(jobs)) for group in one.groups))


def _block_of_jobs(jobs: list[Run]) -> Block:
    """Return the block of the jobs, told apart by what affects a step or, if that is not enough, by all options."""
    block = _block([_of_steps(job) for job in jobs])
    return _block([_with_all_options(job) for job in jobs]) if block.alike else block


def _of_steps(job: Run) -> Group:
    """Return a group of this job alone, without the options that do not affect a step (scheduler, epochs, …)."""
    return Group((job,), bench_options(result_options(job.config)))


def _with_all_options(job: Run) -> Group:
    return Group((job,), result_options(job.config))


def _block(groups: list[Group]) -> Block:
    """Return the block of groups of one model on one data set, without these names, which its rows do not need."""
    return block_of("", "", groups)


def _for_each(jobs: list[Run], named: Iterable[tuple[Group, str]]) -> list[str]:
    names = {group.runs[0].path: name for group, name in named}
    return [names[job.path] for job in jobs]
