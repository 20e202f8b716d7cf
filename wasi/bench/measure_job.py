"""One benchmark job: checks, measurement and bench.json, which is written however the job ends. Imports no torch."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from wasi import file_names
from wasi.bench.baseline import baseline_config, measured_config
from wasi.bench.children import ending_of_job
from wasi.bench.job_identity import bench_fingerprint
from wasi.bench.measure import Bench
from wasi.bench.measurement import Measurement, Side
from wasi.config.fingerprint import SCHEMA_VERSION
from wasi.config.known_options import check_config
from wasi.config.sweep_options import in_sweep, sweep_name
from wasi.config.without_effect import idle_options, remarks, remarks_on_benchmark
from wasi.errors import UserError
from wasi.paths import shown
from wasi.runs.ending import Ending, end_job, printable
from wasi.runs.inputs import check_inputs
from wasi.runs.job import warn_of_other_code
from wasi.runs.provenance import machine, provenance
from wasi.runs.result import read_json, write_json
from wasi.tracking import open_tracker

log = logging.getLogger(__name__)

CHILDREN_LOG = "processes.log"


def perform(cfg: DictConfig, folder: Path, body: Callable[[DictConfig, "Job"], None]) -> Ending:
    """Run `body` and write bench.json, or skip a job that `folder` holds already completed.

    Raises:
        Interrupted: a signal arrived; any other failure is in the returned `Ending`.
    """
    job = Job(cfg, folder)
    try:
        check_config(cfg)
        sweep_name(cfg)
        if not in_sweep():
            words = HydraConfig.get().overrides.task
            for remark in [*remarks_on_benchmark(words), *remarks([idle_options(cfg, words)])]:
                log.warning("%s", remark)
        if job.completed_before() and not cfg.bench.rerun:
            log.info("already completed here, skipped (bench.rerun=true measures again): %s", shown(folder))
            warn_of_other_code(job.provenance_before, "the completed measurement")
            return Ending("completed")
        check_inputs(cfg)
        job.refuse_to_replace_another()
        if (others := job.other_threads()) and not cfg.bench.rerun:
            log.warning("%s, and measured anew: %s", others, shown(folder))
        job.begin()
        body(cfg, job)
        ending = job.measured()
    except BaseException as error:  # Interrupted too: measurements so far are written
        ending = ending_of_job(error)

    def close(ending: Ending) -> None:
        _track(cfg, job, ending)
        _show(job)

    return end_job(ending, job.end, close)


def measure(cfg: DictConfig, job: "Job") -> None:
    """Measure a configuration and its baseline into `job.result`; the `body` for `perform`."""
    baseline = baseline_config(cfg)
    if baseline is not None:
        job.result.baseline = Side(measured_config(baseline), rounds_per_run=cfg.bench.rounds)
    Bench(cfg, job.result, job.folder / CHILDREN_LOG).run()


class Job:
    """A job's bench.json: written with status `running` by `begin`, and with the results by `end`."""

    def __init__(self, cfg: DictConfig, folder: Path):
        self.folder, self._start = folder, time.monotonic()
        self.fingerprint = bench_fingerprint(cfg)
        self._threads = OmegaConf.select(cfg, "device.num_threads")
        self.result = Measurement(Side(measured_config(cfg), rounds_per_run=cfg.bench.rounds), None)
        self._previous = read_json(folder / file_names.BENCH) or {}
        self.content: dict = {}  # of bench.json, as far as it was to be written
        self._begun = False
        self._provenance = provenance()

    @property
    def _was_completed(self) -> bool:
        return self._previous.get("status") == "completed"

    @property
    def provenance_before(self) -> dict:
        """The `provenance` of the folder's earlier bench.json, or empty.

        Empty unless that is a completed measurement with this fingerprint on this machine.
        """
        provenance = self._previous.get("provenance", {})
        same = self._previous.get("fingerprint") == self.fingerprint and provenance.get("machine") == machine()
        return provenance if same and self._was_completed else {}

    def completed_before(self) -> bool:
        """Return whether the folder holds this measurement, completed on this machine with as many threads."""
        return bool(self.provenance_before) and self.other_threads() is None

    def other_threads(self) -> str | None:
        """Return a sentence on the earlier measurement's number of threads if it may differ now, else None.

        `device.num_threads` is part of the fingerprint, so only its absence matters here. torch then takes the number
        from OMP_NUM_THREADS or else from the machine; the latter may be the same, but cannot be known without torch.
        """
        if not self.provenance_before or self._threads is not None:
            return None
        before, asked = self.provenance_before.get("threads", {}), os.environ.get("OMP_NUM_THREADS")
        if asked in (before.get("OMP_NUM_THREADS"), str(before.get("torch"))):
            return None
        now = "is not set" if asked is None else f"is {asked}"
        return f"completed here with {before.get('torch')} threads, but OMP_NUM_THREADS {now} now"

    def refuse_to_replace_another(self) -> None:
        """Raise UserError if the folder has another configuration's completed measurement, unless `bench.rerun`."""
        is_another = self._was_completed and self._previous.get("fingerprint") != self.fingerprint
        if is_another and not self.result.ours.config["bench"]["rerun"]:
            there = "here lies the completed measurement of another configuration, which bench.rerun=true gives up"
            raise UserError("hydra.run.dir", shown(self.folder), f"a folder of its own; {there}")

    def begin(self) -> None:
        """Write bench.json with status `running`."""
        self._begun = True
        self._write("running", None)

    def measured(self) -> Ending:
        """Return how a job ends whose measurements are made: `invalid` if the processor throttled meanwhile."""
        reason = self.result.throttled()
        return Ending("invalid", reason, exit_code=1) if reason else Ending("completed")

    def end(self, ending: Ending) -> None:
        """Write bench.json and log the warnings.

        A job that was refused before it began does not overwrite a completed measurement.
        """
        if self._begun or not self._was_completed:
            self._write(ending.status, ending.error)
        for line in self.result.warnings():
            log.warning("%s", line)

    def _write(self, status: str, error: str | None) -> None:
        head = {
            "schema_version": SCHEMA_VERSION,
            "status": status,
            "error": error,
            "fingerprint": self.fingerprint,
            "config": self.result.ours.config,
        }
        provenance = self._provenance_so_far()
        again = {"environment": {"fingerprint": self.fingerprint, **provenance}}  # a key of the contract
        self.content = {**head, "provenance": provenance, **self.result.content(), **again}
        write_json(self.folder / file_names.BENCH, self.content)

    def _provenance_so_far(self) -> dict:
        process = dict(self.result.process)
        threads = {"torch": process.pop("threads", None), "OMP_NUM_THREADS": process.pop("omp_num_threads", None)}
        return {
            **self._provenance,
            "wall_seconds": time.monotonic() - self._start,
            "threads": {name: value for name, value in threads.items() if value is not None},
            **process,
            "telemetry": self.result.telemetry(),
            "warnings": self.result.warnings(),
        }


def _show(job: Job) -> None:
    """Print the text tables for a single job; a sweep prints them at its end."""
    from wasi.bench.bench_table import text
    from wasi.bench.jobs import read_jobs

    if not in_sweep() and job.result.ours.metrics():
        print(printable(text(read_jobs(job.folder))), flush=True)


def _track(cfg: DictConfig, job: Job, ending: Ending) -> None:
    """Send the result to W&B, after all measurements, as the tracker starts threads and processes."""
    if not job.result.ours.metrics() or cfg.logger.name == "none":  # a refused job may lack the section `logger`
        return
    try:
        tracker = open_tracker(cfg, job.folder, job.fingerprint)
        ratios = {f"ratio/{name}": ratio["p50"] for name, ratio in job.result.content()["ratio"].items()}
        tracker.resume(0)  # a job that is measured again replaces what was sent before
        tracker.summary(ratios)
        tracker.finish(ending.exit_code, job.content, file_names.BENCH)
    except Exception as error:
        log.warning("the tracker got nothing: %s", error)
