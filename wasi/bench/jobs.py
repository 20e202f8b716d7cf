"""Reading the benchmark jobs of a sweep, for the text table, the CSV file and the figures."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wasi.bench.baseline import identity
from wasi.report.benchmarks import bench_options
from wasi.report.blocks import Block, block_of, row_names
from wasi.report.groups import Group, row_order
from wasi.report.load import Run, Unusable, read_run, threads_of
from wasi.report.options import data_root, dataset_label, model_label, result_options, select, show
from wasi.report.series import series_of
from wasi.runs.result import BENCH_FILE_NAME, read_result


@dataclass(frozen=True)
class BenchJob:
    """One bench.json: its `content`, and `run`, the same file as reports read it.

    `dataset` is the label of the data set, by which different folders of images are told apart.
    """

    content: dict
    run: Run
    dataset: str

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def config(self) -> dict:
        return self.run.config

    @property
    def metrics(self) -> dict[str, float]:
        return self.content["metrics"]

    @property
    def ratio(self) -> dict[str, dict[str, float]]:
        return self.content["ratio"]

    @property
    def status(self) -> str:
        return self.run.status

    @property
    def method(self) -> str:
        return str(select(self.config, "method.name"))

    @property
    def group(self) -> Group:
        """A `Group` of this job alone, without the options that do not affect a step (scheduler, epochs, …)."""
        whole = self.whole_group
        return replace(whole, options=bench_options(whole.options))

    @property
    def whole_group(self) -> Group:
        """A `Group` of this job alone, with all options."""
        return Group((self.run,), result_options(self.config))

    @property
    def block(self) -> tuple[str, str, str]:
        """(model, data set, batch size); the jobs of one block share a table and a figure."""
        return model_label(self.config), self.dataset, show(select(self.config, "dataset.batch_size"))


def read_jobs(folder: Path) -> list[BenchJob]:
    """Read all jobs below `folder`, ordered by block and within a block as in every report."""
    runs = []
    for path in sorted(folder.rglob(BENCH_FILE_NAME)):
        with suppress(Unusable):  # report.html lists unusable files with the reason
            runs.append(read_run(path))
    roots = [data_root(run.config) for run in runs]
    found = [
        BenchJob(read_result(run.path.parent, BENCH_FILE_NAME) or {}, run, dataset_label(run.config, roots))
        for run in runs
    ]
    return [job for jobs in by_block(found) for job in sorted(jobs, key=lambda job: row_order(job.group))]


def by_block(jobs: Iterable[BenchJob]) -> list[list[BenchJob]]:
    """Group jobs by block, in order of first appearance."""
    found: dict[tuple, list[BenchJob]] = {}
    for job in jobs:
        found.setdefault(job.block, []).append(job)
    return list(found.values())


@dataclass(frozen=True)
class Baseline:
    """A measured baseline of some jobs of a block, under the `name` that a table gives it.

    `run` is the measurement itself. `is_job` says whether it was also measured as a job of its own.
    """

    name: str
    run: Run
    is_job: bool


def baselines(jobs: list[BenchJob]) -> dict[str, Baseline]:
    """Return the jobs' baselines by `baseline_key`, each that differs in configuration or hardware once.

    Of several measurements the first of a completed job counts.
    """
    found: dict[str, Run] = {}
    for job in sorted(jobs, key=lambda job: job.status != "completed"):
        if (key := baseline_key(job)) is not None and job.run.baseline is not None:
            found.setdefault(key, job.run.baseline)
    own = {_key(job.content["config"], job.run): label for label, job in zip(labels(jobs), jobs, strict=True)}
    apart = {key: Group((run,), result_options(run.config)) for key, run in found.items() if key not in own}
    model, dataset, _ = jobs[0].block
    block = block_of(model, dataset, list(apart.values()))
    names = {group.runs[0].path: name for group, name in zip(block.groups, row_names(block), strict=True)}
    return {
        key: Baseline(own[key], run, True) if key in own else Baseline(f"{names[run.path]} (baseline)", run, False)
        for key, run in found.items()
    }


def baseline_key(job: BenchJob) -> str | None:
    """Return a text that is equal for two jobs with the same baseline on the same hardware; None without one."""
    if job.run.baseline is None:
        return None
    return _key(job.content["baseline"]["config"], job.run.baseline)


def _key(config: dict, run: Run) -> str:
    """Equal for equal steps on the same hardware, which the provenance of a job that died before it was timed has."""
    where = (select(run.provenance, key) for key in ("cuda", "machine.processor"))
    return " ".join(map(str, (identity(config), *where, threads_of(run))))


def labels(jobs: list[BenchJob]) -> list[str]:
    """Return a row name for each job of one block, as reports do."""
    block = _block(jobs)
    return _for_each(jobs, zip(block.groups, row_names(block), strict=True))


def series_names(jobs: list[BenchJob]) -> list[str]:
    """Return names as `labels` does, but without thresholds: equal for jobs on the same line of a figure."""
    return _for_each(jobs, ((group, one.label) for one in series_of(_block(jobs)) for group in one.groups))


def _block(jobs: list[BenchJob]) -> Block:
    """Return the block of the jobs, told apart by what affects a step or, if that is not enough, by all options."""
    model, dataset, _ = jobs[0].block
    block = block_of(model, dataset, [job.group for job in jobs])
    return block_of(model, dataset, [job.whole_group for job in jobs]) if block.alike else block


def _for_each(jobs: list[BenchJob], named: Iterable[tuple[Group, str]]) -> list[str]:
    names = {group.runs[0].path: name for group, name in named}
    return [names[job.path] for job in jobs]
