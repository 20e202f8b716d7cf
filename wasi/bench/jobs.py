"""Reading the benchmark jobs of a sweep, for the text table, the CSV file and the figures."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wasi.bench.baseline import identity
from wasi.report.groups import Block, Group, block_of, row_names, row_order
from wasi.report.load import Run, Unusable, read_run
from wasi.report.options import dataset_label, model_label, result_options, select, show
from wasi.report.series import series_of
from wasi.runs.result import BENCH_FILE_NAME, read_result

_NOT_OF_A_STEP = ("scheduler.", "train.epochs")


@dataclass(frozen=True)
class BenchJob:
    """One bench.json: its `content`, and `run`, the same file as reports read it."""

    content: dict
    run: Run

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
        """A `Group` of this job alone, without the options that do not affect a step (scheduler, epochs)."""
        whole = self.whole_group
        return replace(whole, options={k: v for k, v in whole.options.items() if not k.startswith(_NOT_OF_A_STEP)})

    @property
    def whole_group(self) -> Group:
        """A `Group` of this job alone, with all options."""
        return Group((self.run,), result_options(self.config))

    @property
    def block(self) -> tuple[str, str, str]:
        """(model, data set, batch size); the jobs of one block share a table and a figure."""
        return model_label(self.config), dataset_label(self.config), show(select(self.config, "dataset.batch_size"))


def read_jobs(folder: Path) -> list[BenchJob]:
    """Read all jobs below `folder`, ordered by block and within a block as in every report."""
    found = []
    for path in sorted(folder.rglob(BENCH_FILE_NAME)):
        content = read_result(path.parent, BENCH_FILE_NAME)
        with suppress(Unusable):  # report.html lists unusable files with the reason
            found.append(BenchJob(content or {}, read_run(path)))
    return [job for jobs in by_block(found) for job in sorted(jobs, key=lambda job: row_order(job.group))]


def by_block(jobs: Iterable[BenchJob]) -> list[list[BenchJob]]:
    """Group jobs by block, in order of first appearance."""
    found: dict[tuple, list[BenchJob]] = {}
    for job in jobs:
        found.setdefault(job.block, []).append(job)
    return list(found.values())


def baseline_apart(jobs: list[BenchJob]) -> dict | None:
    """Return configuration and metrics of the first measured baseline; None if there is none or it is a job itself."""
    measured = next((job.content["baseline"] for job in jobs if (job.content["baseline"] or {}).get("metrics")), None)
    if measured is None or any(identity(job.content["config"]) == identity(measured["config"]) for job in jobs):
        return None
    return measured


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
