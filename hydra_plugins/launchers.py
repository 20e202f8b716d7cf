"""Hydra's launchers (joblib, submitit, Ray) with what a sweep that is to survive needs beyond them.

- A job whose process dies (out of memory, a lost machine) is one failed job: the others go on to their end, the report
  is written, and the sweep's exit status is 1.
- A signal to the sweep's process reaches the jobs' processes on this machine, which save a checkpoint.

Each class takes the options of the launcher behind it, which is imported when it is used.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from hydra_plugins.slurm_queue import has_accounting, watch_the_queue
from wasi import file_names
from wasi.errors import Interrupted, one_line
from wasi.runs.ending import print_error
from wasi.runs.launching import record_launched_job
from wasi.runs.lock import is_locked
from wasi.runs.result import read_result
from wasi.runs.tuned_row import folder_of
from wasi.signals import stopping

_SECONDS_TO_SAVE = 60.0


class _Launcher(Launcher):
    """What they have in common; `inner` is the class of Hydra's own launcher behind one of them, in `module`."""

    module = inner = ""
    forwarded: int | None = None  # what its processes on this machine are sent when this one is told to stop

    def __init__(self, **options: Any):
        self.options = options

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.launcher = getattr(import_module(f"hydra_plugins.{self.module}"), self.inner)(**self.options)
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.loader, self.config = hydra_context.config_loader, config
        self.folder = Path(config.hydra.sweep.dir)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        forwarding = nullcontext() if self.forwarded is None else _forwarding(self.forwarded, self.folder)
        with forwarding:
            returns = self.launch_all(job_overrides, initial_job_idx)
        for words, job in zip(job_overrides, returns, strict=True):
            if job.hydra_cfg is None:
                job.hydra_cfg = OmegaConf.create({"hydra": {"runtime": {"output_dir": self._folder_here(words)}}})
            record_launched_job(folder_of(job), getattr(job, "error", None))
        return returns

    def _folder_here(self, words: Sequence[str]) -> str:
        """The folder that a job would have if it ran in this process."""
        subdir = self.loader.load_sweep_config(self.config, list(words)).hydra.sweep.subdir
        return os.path.abspath(self.folder / str(subdir))

    def launch_all(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        return self.launcher.launch(jobs, initial_job_idx=first)


class Joblib(_Launcher):
    module, inner, forwarded = "hydra_joblib_launcher.joblib_launcher", "JoblibLauncher", signal.SIGUSR1

    def launch_all(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """joblib ends every job when one process dies. Those that were completed are skipped the second time."""
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        self.launcher.joblib["initializer"] = _ignore_hang_up
        try:
            return super().launch_all(jobs, first)
        except TerminatedWorkerError as error:
            print_error(f"a job's process died, and joblib ended the others, which go on now: {one_line(error)}")
        try:
            return super().launch_all(jobs, first)
        except TerminatedWorkerError as error:
            print_error(f"a job's process died again: {one_line(error)}")
            return [_lost() for _ in jobs]


def _ignore_hang_up() -> None:
    """A closed terminal's SIGHUP would end a process that waits for work; the sweep's process tells the others."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


class _Submitit(_Launcher):
    module = "hydra_submitit_launcher.submitit_launcher"

    def launch_all(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """submitit raises for the first job without a result and would leave the others unattended."""
        from submitit.core.core import Job
        from submitit.core.utils import FailedJobError, UncompletedJobError

        with _answered(Job, "results", (FailedJobError, UncompletedJobError), lambda lost: [lost]):
            return super().launch_all(jobs, first)


class SubmititLocal(_Submitit):
    inner, forwarded = "LocalLauncher", signal.SIGTERM  # submitit's process between hands it on


class SubmititSlurm(_Submitit):
    inner = "SlurmLauncher"

    def launch_all(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """submitit asks `sacct` which jobs have ended; without accounting, it would wait for a dead one for ever."""
        if not has_accounting():
            watch_the_queue()
        return super().launch_all(jobs, first)


class Ray(_Launcher):
    module, inner = "hydra_ray_launcher.ray_launcher", "RayLauncher"

    def launch_all(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """Ray raises for the first job that is lost for good, and ends the others with this process.

        A cluster that is joined would run the jobs in the folder in which `ray start` was called; here they run in the
        working directory of the sweep's process.
        """
        import ray
        from hydra_plugins.hydra_ray_launcher import _launcher_util

        run_job, folder = _launcher_util._run_job, os.getcwd()

        def run_here(**options: Any) -> JobReturn:
            try:
                os.chdir(folder)
            except OSError as error:
                raise RuntimeError(f"the sweep's folder {folder} cannot be used on this machine: {error}") from None
            return run_job(**options)

        with (
            _replaced(_launcher_util, "_run_job", run_here),
            _answered(ray, "get", (ray.exceptions.RayError,), lambda lost: lost),
        ):
            return super().launch_all(jobs, first)


@contextmanager
def _answered(owner: Any, name: str, errors: tuple, answer: Callable[[JobReturn], Any]) -> Iterator[None]:
    """`owner.name(...)` returns what a lost job returns instead of raising one of `errors`."""
    original = getattr(owner, name)

    def answered(*args: Any, **options: Any) -> Any:
        try:
            return original(*args, **options)
        except errors as error:
            print_error(f"a job's process died: {one_line(error)[:300]}")
            return answer(_lost())

    with _replaced(owner, name, answered):
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value`."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _lost() -> JobReturn:
    """Of a job that returned nothing. It has failed: it left no result.json, or one that says `running`."""
    lost = JobReturn()
    lost.return_value, lost.status = None, JobStatus.COMPLETED
    return lost


@contextmanager
def _forwarding(forwarded: int, folder: Path) -> Iterator[None]:
    """SIGINT, SIGTERM or SIGHUP first goes to the jobs' processes, which get the time to save; then the sweep stops."""

    def stop(signum: int, frame: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        if signum != signal.SIGINT or forwarded != signal.SIGTERM:  # a terminal's Ctrl-C reaches them by itself
            _send(forwarded)
        deadline = time.monotonic() + _SECONDS_TO_SAVE
        while time.monotonic() < deadline and any(_running(folder)):
            time.sleep(0.1)
        raise Interrupted(signum)

    before = {number: signal.signal(number, stop) for number in stopping()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(signum: int) -> None:
    """To the child processes that have a handler for it: one that waits for work would die, and joblib end all others.

    Without /proc (not Linux) to none, so that their jobs go back to the last checkpoint.
    """
    import psutil

    for child in psutil.Process().children():
        if _catches(child.pid, signum):
            os.kill(child.pid, signum)


def _catches(process: int, signum: int) -> bool:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (signum - 1) & 1)


def _running(folder: Path) -> Iterator[Path]:
    for path in folder.glob(f"*/{file_names.RESULT}"):
        if (read_result(path.parent) or {}).get("status") == "running" and is_locked(path.parent):
            yield path
