"""The frame of a sweep of benchmark jobs; the table over its jobs at the end."""

from pathlib import Path

from omegaconf import DictConfig

import wasi.bench.naming  # noqa: F401  (a launcher's child process gets the resolver by unpickling the callback)
from wasi.bench.baseline import check_baseline
from wasi.bench.job import FILE_NAME
from wasi.runs.sweep import SweepCallback


class BenchCallback(SweepCallback):
    """`SweepCallback` for bench.json."""

    file_name = FILE_NAME

    def check(self, config: DictConfig, swept: set[str]) -> None:
        super().check(config, swept)
        if not swept & {"bench.baseline", "experiment"}:
            check_baseline(config.bench.baseline)

    def report(self, folder: Path) -> str:
        from wasi.bench.report import write_report

        return write_report(folder)
