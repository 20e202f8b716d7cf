"""One benchmark job from its configuration to its bench.json, however it ends. No torch."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from wasi.bench.baseline import baseline_config, measured_config
from wasi.bench.children import ChildFailed
from wasi.bench.job_identity import bench_fingerprint
from wasi.bench.measure import Bench
from wasi.bench.measurement import Measurement, Side
from wasi.config.fingerprint import SCHEMA_VERSION
from wasi.config.known import check_config
from wasi.config.swept import sweep_name
from wasi.errors import Interrupted
from wasi.runs.ending import Ending, ending_of, tell
from wasi.runs.inputs import check_inputs
from wasi.runs.job import warn_of_other_code
from wasi.runs.provenance import machine, provenance
from wasi.runs.result import BENCH_FILE_NAME, read_result, write_json
from wasi.signals import uninterrupted
from wasi.tracking import open_tracker

log = logging.getLogger(__name__)

CHILDREN_LOG = "processes.log"


def perform(cfg: DictConfig, folder: Path, body: Callable[[DictConfig, "Job"], None]) -> Ending:
    """Skip, or measure and write down what was measured. Raises only `Interrupted`."""
    job = Job(cfg, folder)
    try:
        check_config(cfg)
        sweep_name(cfg)
        if job.completed_before() and not cfg.bench.rerun:
            log.info(
                "already completed here, skipped (bench.rerun=true measures again): %s", os.path.relpath(folder)
            )
            warn_of_other_code(job.own_before, "the completed measurement")
            return Ending("completed")
        check_inputs(cfg)
        if (others := job.other_threads()) and not cfg.bench.rerun:
            log.warning("%s, and measured anew: %s", others, os.path.relpath(folder))
        job.begin()
        body(cfg, job)
        ending = Ending("completed")
    except BaseException as error:  # Interrupted too: what was measured is kept
        ending = _ending(error)
    with uninterrupted():
        try:
            ending = job.end(ending)
        except OSError as error:  # a full disk: what is there stays, and the next job is tried
            ending = replace(ending_of(error), signum=ending.signum)
        tell(ending, folder / "bench.log")
        _track(cfg, job, ending)
        _show(job)
    if ending.signum is not None:
        raise Interrupted(ending.signum)
    return ending


def measure(cfg: DictConfig, job: "Job") -> None:
    """The body of a job."""
    baseline = baseline_config(cfg)
    if baseline is not None:
        job.result.baseline = Side(measured_config(baseline), rounds_per_run=cfg.bench.rounds)
    Bench(cfg, job.result, job.folder / CHILDREN_LOG).run()


class Job:
    """A job's bench.json while it comes into being: `running` at first, its ending at the end."""

    def __init__(self, cfg: DictConfig, folder: Path):
        self.folder, self._start = folder, time.monotonic()
        self.fingerprint = bench_fingerprint(cfg)
        self._threads = OmegaConf.select(cfg, "device.num_threads")
        self.result = Measurement(Side(measured_config(cfg), rounds_per_run=cfg.bench.rounds), None)
        self._previous = read_result(folder, BENCH_FILE_NAME)
        self._begun = False
        self._provenance = provenance()

    @property
    def own_before(self) -> dict:
        """The environment of this very measurement, completed on this machine; empty where the folder has none."""
        before = self._previous or {}
        environment = before.get("environment", {})
        same = environment.get("fingerprint") == self.fingerprint and environment.get("machine") == machine()
        return environment if same and before.get("status") == "completed" else {}

    def completed_before(self) -> bool:
        """Whether the folder has this very measurement, made on this machine with as many threads."""
        return bool(self.own_before) and self.other_threads() is None

    def other_threads(self) -> str | None:
        """How many threads this measurement was made with, where one now would have another number, in words.

        A number in the configuration is part of the fingerprint. Without one torch takes OMP_NUM_THREADS, or
        else what it finds on the machine, which may be the same number: without torch that is not known here.
        """
        if not self.own_before or self._threads is not None:
            return None
        before, asked = self.own_before.get("threads", {}), os.environ.get("OMP_NUM_THREADS")
        if asked in (before.get("OMP_NUM_THREADS"), str(before.get("torch"))):
            return None
        now = "is not set" if asked is None else f"is {asked}"
        return f"completed here with {before.get('torch')} threads, but OMP_NUM_THREADS {now} now"

    def begin(self) -> None:
        self._begun = True
        self._write("running", None)

    def end(self, ending: Ending) -> Ending:
        """Write the ending; that of a run which throttled is `invalid`. One refused before it began leaves a
        completed measurement alone."""
        reason = self.result.throttled()
        if ending.status == "completed" and reason:
            ending = replace(ending, status="invalid", error=reason, exit_code=1)
        if self._begun or not self.own_before:
            self._write(ending.status, ending.error)
        for line in self.result.warnings():
            log.warning("%s", line)
        return ending

    def _write(self, status: str, error: str | None) -> None:
        head = {
            "schema_version": SCHEMA_VERSION,
            "status": status,
            "error": error,
            "config": self.result.ours.config,
        }
        content = {**head, **self.result.content(), "environment": self._environment()}
        write_json(self.folder / BENCH_FILE_NAME, content)

    def _environment(self) -> dict:
        process = dict(self.result.process)
        threads = {"torch": process.pop("threads", None), "OMP_NUM_THREADS": process.pop("omp_num_threads", None)}
        return {
            "fingerprint": self.fingerprint,
            **self._provenance,
            "wall_seconds": time.monotonic() - self._start,
            "threads": {name: value for name, value in threads.items() if value is not None},
            **process,
            "telemetry": self.result.telemetry(),
            "warnings": self.result.warnings(),
        }


def _ending(error: BaseException) -> Ending:
    if isinstance(error, ChildFailed):
        return Ending(error.status, str(error), exit_code=1)
    return ending_of(error)


def _show(job: Job) -> None:
    """What a sweep shows at its end, for a job that is none of a sweep's."""
    from wasi.bench.bench_table import text
    from wasi.bench.jobs import read_jobs
    from wasi.report.write import printable

    alone = HydraConfig.initialized() and HydraConfig.get().mode != RunMode.MULTIRUN
    if alone and job.result.ours.metrics():
        print(printable(text(read_jobs(job.folder))), flush=True)


def _track(cfg: DictConfig, job: Job, ending: Ending) -> None:
    """Only now that nothing is measured any more: the tracker has threads and processes of its own."""
    if cfg.logger.name == "none" or not job.result.ours.metrics():
        return
    try:
        tracker = open_tracker(cfg, job.folder, job.fingerprint)
        ratios = {f"ratio/{name}": ratio["p50"] for name, ratio in job.result.content()["ratio"].items()}
        tracker.summary({**job.result.ours.metrics(), **ratios})
        tracker.finish(ending.exit_code)
    except Exception as error:
        log.warning("the tracker got nothing: %s", error)
