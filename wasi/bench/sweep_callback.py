"""Hydra callback for benchmark sweeps: checks before the jobs, and the report after them."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, read_write

from wasi import file_names
from wasi.bench.baseline import check_baseline
from wasi.config.known_options import check_needed
from wasi.errors import UserError
from wasi.runs.launching import launcher_name
from wasi.runs.processes import check_alone
from wasi.runs.tuning import is_tuned_sweep
from wasi.sweep import SweepCallback, exit_if_refused


class BenchCallback(SweepCallback):
    """`SweepCallback` for bench.json."""

    file_name = file_names.BENCH
    subdir = "${bench_folder:}"

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        exit_if_refused(check_alone)
        exit_if_refused(lambda: check_needed("bench", config))
        super().on_run_start(config, **kwargs)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Drop the seeds of an experiment, which are for accuracy; a benchmark repeats by rounds with one seed."""
        exit_if_refused(check_alone)
        _drop_seeds(config.hydra.sweeper)
        super().on_multirun_start(config, **kwargs)

    def check(self, config: DictConfig, swept: set[str]) -> None:
        check_needed("bench", config)
        super().check(config, swept)
        if is_tuned_sweep(config.hydra):
            raise UserError("hydra/sweeper", "tuned", "basic, as a benchmark tunes nothing")
        if launcher_name(config.hydra) != "BasicLauncher":
            given = config.hydra.runtime.choices["hydra/launcher"]
            raise UserError("hydra/launcher", given, "basic, as a benchmark measures one job at a time")
        if config.bench.get("fit") is not None:
            raise UserError("experiment", "fit", "without -m only, as its own lists say what is looked over")
        if not swept & {"bench", "bench.baseline", "bench.baseline_recipe", "experiment"}:
            check_baseline(config.bench)

    def report(self, folder: Path) -> str:
        from wasi.bench.report import write_report

        return write_report(folder)


def _drop_seeds(sweeper: DictConfig) -> None:
    """Remove `seed` from the sweeper's parameters in the configuration; seeds on the command line are still swept."""
    if "seed" in (sweeper.get("params") or {}):
        with read_write(sweeper):
            sweeper.params = {key: value for key, value in sweeper.params.items() if key != "seed"}
