"""The frame of a sweep: checked before its first job, told about after its last."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

import wasi.config.resolvers  # noqa: F401  (a launcher's child process gets it by unpickling the callback)
from wasi.config.files import plain
from wasi.config.known import check_config, check_hydra
from wasi.config.needs import check_needs
from wasi.config.swept import sweep_name, swept_options
from wasi.runs.command import continue_with
from wasi.runs.ending import ending_of, one_line, print_error
from wasi.runs.fail_fast import OPTION, check_fail_fast, enough_failures, note_results_before
from wasi.runs.folder import check_folder, check_inside, make_folder
from wasi.runs.job import forget_ended
from wasi.runs.launching import forget_launched, launched_jobs, note_launched, prepare_launcher
from wasi.runs.lock import is_at_work
from wasi.runs.plan import write_plan
from wasi.runs.processes import check_processes
from wasi.runs.result import FILE_NAME, read_result, told_ending
from wasi.runs.tuning import check_tuning
from wasi.runs.tuning_file import not_chosen


class SweepCallback(Callback):
    """Hydra's hooks around `-m`. A refused sweep ends with 2, one with a failed job with 1.

    Another kind of job overrides `file_name` (of its results), `check` and `report`.

    Args:
        fail_fast: failures of one reason after which no further job is begun; None for all jobs.
    """

    file_name = FILE_NAME

    def __init__(self, fail_fast: int | None = None):
        self._fail_fast = fail_fast

    def check(self, config: DictConfig, swept: set[str]) -> None:
        """Raises UserError for what no job could do; options in `swept` differ from job to job."""
        check_config(config, swept)
        check_needs(config, swept)

    def report(self, folder: Path) -> str:
        """Write the sweep's report into its folder; what the terminal shows of it."""
        from wasi.report import write_report

        return write_report([folder])

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        exit_if_refused(lambda: check_hydra(config.hydra))
        exit_if_refused(lambda: check_tuning(config.hydra))
        exit_if_refused(lambda: check_folder("hydra.run.dir", config.hydra.run.dir))
        exit_if_refused(lambda: check_inside("hydra.output_subdir", config.hydra.output_subdir))
        exit_if_refused(lambda: check_fail_fast(self._fail_fast, in_sweep=False))
        exit_if_refused(lambda: make_folder("hydra.run.dir", config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        exit_if_refused(lambda: self._check_sweep(config))
        self._before = versions(Path(config.hydra.sweep.dir), self.file_name)
        name = str(config.sweep)
        _pin_name(config, name)
        print(continue_with("sweep", name), flush=True)
        write_plan(Path(config.hydra.sweep.dir), config)
        if self._fail_fast is not None:
            note_results_before(Path(config.hydra.sweep.dir))
        forget_ended()
        forget_launched()

    def _check_sweep(self, config: DictConfig) -> None:
        check_hydra(config.hydra)
        swept = swept_options(config.hydra)
        sweep_name(config, swept)
        check_tuning(config.hydra)
        check_folder("hydra.sweep.dir", config.hydra.sweep.dir)
        check_inside("hydra.sweep.subdir", plain(config.hydra.sweep)["subdir"])  # of a job, which is not known yet
        check_inside("hydra.output_subdir", config.hydra.output_subdir)
        check_fail_fast(self._fail_fast, in_sweep=True)
        check_processes(config, in_sweep=True)
        self.check(config, swept)
        prepare_launcher(config)
        make_folder("hydra.sweep.dir", config.hydra.sweep.dir)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        note_launched(Path(config.hydra.runtime.output_dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        told = _tell(self.report, folder)
        failures = failed_jobs(folder, self._before, self.file_name)
        stopped = enough_failures(config.hydra)
        if not stopped:
            failures |= lost_jobs([folder / os.path.relpath(job, folder) for job in launched_jobs()], self.file_name)
        for job, result in failures.items():
            print_error(f"{job}: {told_ending(result['status'], result['error'])}")
        if stopped:
            count, reason = stopped
            print_error(f"stopped after {count} failures of one kind, {OPTION}={self._fail_fast}: {reason}")
        if failures or not told:
            sys.exit(1)


def exit_if_refused(check: Callable[[], None]) -> None:
    """Hydra would make a mere warning of a callback's exception and go on."""
    try:
        check()
    except Exception as error:
        ending = ending_of(error)
        print_error(str(ending.error))
        sys.exit(ending.exit_code)


def _tell(report: Callable[[Path], str], folder: Path) -> bool:
    """Print the sweep's table; whether that worked (Hydra would make a mere warning of an exception here)."""
    try:
        print(report(folder), flush=True)
    except Exception as error:
        print_error(f"no report for {folder}: {one_line(f'{type(error).__name__}: {error}')}")
        return False
    return True


def versions(sweep: Path, file_name: str = FILE_NAME) -> dict[Path, tuple[int, int]]:
    """Every result under `sweep`, with its version: another one means that it has been written since.

    Not by times that are later than the sweep's begin: the machine's clock may be set back meanwhile.
    """
    return {path: _version(path) for path in sweep.rglob(file_name)}


def _version(path: Path) -> tuple[int, int]:
    """A result is written as a new file, which has another number in the file system or another time."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def failed_jobs(
    sweep: Path, before: Mapping[Path, tuple[int, int]], file_name: str = FILE_NAME
) -> dict[Path, dict]:
    """Results under `sweep` that are not completed, by job folder; without those that are as they were `before`.

    One that still says `running` counts when no process is at work there any more. A learning rate that was tried
    and diverged is no failure but an answer.
    """
    failures, tried = {}, not_chosen(sweep)
    for path in sorted(sweep.rglob(file_name)):
        result = read_result(path.parent, file_name)
        if result is None or result.get("status") == "completed" or before.get(path) == _version(path):
            continue
        if result["status"] == "diverged" and path.parent.name in tried:
            continue
        if result["status"] == "running":
            if is_at_work(path.parent):
                continue
            result["error"] = "its process died"
        failures[path.parent] = result
    return failures


def lost_jobs(jobs: Iterable[Path], file_name: str = FILE_NAME) -> dict[Path, dict]:
    """Those of `jobs` (folders) without a result, as a process leaves none that dies before it begins to train.

    A job that another process has at the moment is not lost.
    """
    lost = [job for job in jobs if not (job / file_name).exists() and not is_at_work(job)]
    return {job: {"status": "failed", "error": f"it left no {file_name}"} for job in lost}


def _pin_name(config: DictConfig, name: str) -> None:
    """Every job gets the name as an override: a launcher's child process would make up a timestamp of its own."""
    config.sweep = name
    tasks = config.hydra.overrides.task
    if not any(override.startswith("sweep=") for override in tasks):
        with read_write(config.hydra.overrides):
            tasks.append(f"sweep={name}")
