"""Hydra's callback around a sweep: checks before its first job, the report after its last."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

import wasi.config.resolvers  # noqa: F401  (a launcher's child process gets it by unpickling the callback)
from wasi import file_names
from wasi.config.files import plain
from wasi.config.hydra_errors import quoted
from wasi.config.known_options import check_config, check_hydra
from wasi.config.overrides import given_value
from wasi.config.requirements import check_needs
from wasi.config.sweep_options import sweep_name, swept_options
from wasi.errors import UserError, type_and_text
from wasi.runs.command import continue_with
from wasi.runs.ending import ending_of, print_error
from wasi.runs.fail_fast import OPTION, check_fail_fast, enough_failures, note_results_before
from wasi.runs.folder import check_folder, check_inside, make_folder
from wasi.runs.job import failed_here, reset_ended_jobs
from wasi.runs.launching import (
    failed_elsewhere,
    launched_jobs,
    prepare_launcher,
    record_launched_job,
    reset_launched_jobs,
)
from wasi.runs.lock import can_be_locked, is_locked
from wasi.runs.plan import write_plan
from wasi.runs.processes import check_processes
from wasi.runs.result import is_of_job, outcome_line, read_json, read_result, version, versions
from wasi.runs.tuning import check_tuning, is_tuned_sweep
from wasi.runs.tuning_file import not_chosen


class SweepCallback(Callback):
    """Hydra's hooks around a run or a sweep (`-m`). A sweep that is refused exits with 2, one with a failed job with 1.

    A subclass for another kind of job overrides `file_name` (of its results), `subdir` (the names of their folders, by
    which equal jobs share one and no others do), `check` and `report`.

    Args:
        fail_fast: failures for the same reason after which no further job begins; None to run all jobs.
    """

    file_name = file_names.RESULT
    subdir = "${job_folder:}"

    def __init__(self, fail_fast: int | None = None):
        self._fail_fast = fail_fast

    def check(self, config: DictConfig, swept: set[str]) -> None:
        """Raise `UserError` for what would fail in every job; options in `swept` differ from job to job."""
        check_config(config, swept)
        check_needs(config, swept)

    def report(self, folder: Path) -> str:
        """Write the sweep's report into its folder, and return the table for the terminal."""
        from wasi.report.write import write_report

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
        exit_if_refused(lambda: self._begin(config))

    def _check_sweep(self, config: DictConfig) -> None:
        check_hydra(config.hydra)
        swept = swept_options(config.hydra)
        sweep_name(config, swept, config.hydra.overrides.task)
        check_tuning(config.hydra)
        check_folder("hydra.sweep.dir", config.hydra.sweep.dir)
        if (given := plain(config.hydra.sweep).get("subdir")) != self.subdir:
            allowed = f"{self.subdir}, the default, by which equal configurations alone share a folder"
            raise UserError("hydra.sweep.subdir", given, allowed)
        check_inside("hydra.output_subdir", config.hydra.output_subdir)
        check_fail_fast(self._fail_fast, in_sweep=True)
        check_processes(config, in_sweep=True)
        self.check(config, swept)
        prepare_launcher(config)

    def _begin(self, config: DictConfig) -> None:
        folder, name = Path(config.hydra.sweep.dir), str(config.sweep)
        self._before = versions(folder)
        _pin_name(config, name)
        own_folder = any(word.startswith("hydra.sweep.dir=") for word in config.hydra.overrides.hydra)
        where = {"hydra.sweep.dir": config.hydra.sweep.dir} if own_folder else {}  # it may contain the time of day
        _print(continue_with({**where, "sweep": name}))
        if not is_tuned_sweep(config.hydra):  # its sweeper writes both, when its own checks have passed
            write_plan(folder, config)
            note_results_before(config.hydra)
        reset_ended_jobs()
        reset_launched_jobs()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        record_launched_job(Path(config.hydra.runtime.output_dir))

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """Tell the sweep's process, in what a launcher sends back to it, with which error the job failed, if any."""
        job_return.error = failed_here().get(Path(config.hydra.runtime.output_dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        exit_if_refused(lambda: self._end(config))

    def _end(self, config: DictConfig) -> None:
        folder = Path(config.hydra.sweep.dir)
        reported = _tell(self.report, folder)
        failures = failed_jobs(folder, self._before, self.file_name)
        stopped = enough_failures(config.hydra)
        if not stopped:
            failures |= lost_jobs([folder / os.path.relpath(job, folder) for job in launched_jobs()], self.file_name)
        failures |= refused_jobs(folder, self._before, failed_elsewhere() | failed_here(), self.file_name)
        for job, result in failures.items():
            print_error(f"{job}: {outcome_line(result['status'], result['error'])}")
        if stopped:
            count, reason = stopped
            print_error(f"stopped after {count} failures of one kind, {OPTION}={self._fail_fast}: {reason}")
        if failures or not reported:
            sys.exit(1)


def exit_if_refused(check: Callable[[], None]) -> None:
    """Call `check`, and if it raises, print the error and exit.

    Hydra would turn an exception of a callback into a mere warning and go on.
    """
    try:
        check()
    except Exception as error:
        ending = ending_of(error)
        print_error(str(ending.error))
        sys.exit(ending.exit_code)


def _tell(report: Callable[[Path], str], folder: Path) -> bool:
    """Print the sweep's table and return whether there is a report; without one, the failed jobs are still told."""
    try:
        table = report(folder)
    except Exception as error:
        print_error(f"no report for {folder}: {type_and_text(error)}")
        return False
    _print(table)
    return True


def _print(text: str) -> None:
    """Print, unless standard output is gone or full, on which a sweep does not depend; its exit status tells that."""
    with suppress(OSError):
        print(text, flush=True)


def failed_jobs(
    sweep: Path, before: Mapping[str, str | None], file_name: str = file_names.RESULT
) -> dict[Path, dict]:
    """Return the results of a sweep's jobs that are not completed and differ from those `before`, by job folder.

    A result that still says `running` counts if no process is at work there any more. A diverged job of tuning whose
    point was not chosen is no failure.
    """
    failures, tried = {}, not_chosen(sweep)
    for path in sorted(sweep.glob(f"*/{file_name}")):
        result = read_json(path)
        known = before.get(str(path.relative_to(sweep)))
        if result is None or not {"status", "error"} <= result.keys():  # a file of that name that is no job's
            continue
        if result["status"] == "completed" or known == version(path):
            continue
        if result["status"] == "diverged" and path.parent.name in tried:
            continue
        if result["status"] == "running":
            if is_locked(path.parent):
                continue
            result["error"] = "its process died"
        failures[path.parent] = result
    return failures


def lost_jobs(jobs: Iterable[Path], file_name: str = file_names.RESULT) -> dict[Path, dict]:
    """Return those of `jobs` (folders) without a result, which a process leaves that dies before it begins to train.

    A job on which another process is at work is not lost. One whose folder cannot be locked is, as it did not begin,
    and so is a run whose folder has the completed result of another configuration, which somebody has put there.
    """
    jobs = list(jobs)
    lost = {job: f"it left no {file_name}" for job in jobs if not (job / file_name).is_file() and not is_locked(job)}
    lost |= {job: "its folder's .lock cannot be opened" for job in jobs if not can_be_locked(job)}
    lost |= {job: "its folder has the result of another configuration" for job in jobs if _has_anothers_result(job)}
    return {job: {"status": "failed", "error": error} for job, error in lost.items()}


def refused_jobs(
    sweep: Path,
    before: Mapping[str, str | None],
    failed: Mapping[Path, str],
    file_name: str = file_names.RESULT,
) -> dict[Path, dict]:
    """Return those of the `failed` jobs (folder -> error) that left the result in their folder as it was `before`.

    They were refused before they began: the result is another configuration's, or the job was to be run again.
    """
    found = {}
    for job, error in failed.items():
        name = os.path.relpath(job, sweep)
        if before.get(f"{name}/{file_name}") == version(job / file_name):
            found[sweep / name] = {"status": "failed", "error": error}
    return found


def _has_anothers_result(job: Path) -> bool:
    """Return whether a run's folder has the completed result of another configuration."""
    found = read_result(job) or {}
    return found.get("status") == "completed" and not is_of_job(found, job)


def _pin_name(config: DictConfig, name: str) -> None:
    """Give every job the sweep's name as an override: a launcher's child process would make a new timestamp."""
    config.sweep = name
    tasks = config.hydra.overrides.task
    if given_value("sweep", tasks) is None:
        with read_write(config.hydra.overrides):
            tasks.append(f"sweep={quoted(name)}")  # a name of digits is no number
