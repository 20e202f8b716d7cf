"""The benchmark jobs of a sweep, as the table, the CSV file and the figure want them."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wasi.report.groups import Block, Group, block_of, row_names, row_order
from wasi.report.load import Run, Unusable, read_run
from wasi.report.options import dataset_label, model_label, result_options, select, show
from wasi.report.series import series_of
from wasi.runs.result import BENCH_FILE_NAME, read_result

_NOT_OF_A_STEP = ("scheduler.", "train.epochs")


@dataclass(frozen=True)
class BenchJob:
    """One bench.json: what it holds, and what reports read of it."""

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
        """The job as a row of its own, whatever others are like it."""
        options = result_options(self.config)
        return Group((self.run,), {k: v for k, v in options.items() if not k.startswith(_NOT_OF_A_STEP)})

    @property
    def block(self) -> tuple[str, str, str]:
        """What a table and a figure have in common: model, data, batch size."""
        return model_label(self.config), dataset_label(self.config), show(select(self.config, "dataset.batch_size"))


def read_jobs(folder: Path) -> list[BenchJob]:
    """All jobs below `folder`: blocks together, within one as in every report."""
    found = []
    for path in sorted(folder.rglob(BENCH_FILE_NAME)):
        content = read_result(path.parent, BENCH_FILE_NAME)
        with suppress(Unusable):  # report.html of the same folder says why
            found.append(BenchJob(content or {}, read_run(path)))
    return [job for jobs in by_block(found) for job in sorted(jobs, key=lambda job: row_order(job.group))]


def by_block(jobs: Iterable[BenchJob]) -> list[list[BenchJob]]:
    """The jobs of each block, in order of appearance."""
    found: dict[tuple, list[BenchJob]] = {}
    for job in jobs:
        found.setdefault(job.block, []).append(job)
    return list(found.values())


def labels(jobs: list[BenchJob]) -> list[str]:
    """A name per job of one block, as every report names its rows."""
    block = _block(jobs)
    return _for_each(jobs, zip(block.groups, row_names(block), strict=True))


def series_names(jobs: list[BenchJob]) -> list[str]:
    """As `labels`, without the thresholds: equal for jobs that belong on one line of a figure."""
    return _for_each(jobs, ((group, one.label) for one in series_of(_block(jobs)) for group in one.groups))


def _block(jobs: list[BenchJob]) -> Block:
    model, dataset, _ = jobs[0].block
    return block_of(model, dataset, [job.group for job in jobs])


def _for_each(jobs: list[BenchJob], named: Iterable[tuple[Group, str]]) -> list[str]:
    names = {group.runs[0].path: name for group, name in named}
    return [names[job.path] for job in jobs]
