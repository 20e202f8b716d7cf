"""One run from its configuration to its result file, whether it succeeds, fails or is interrupted."""

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from wasi import file_names
from wasi.atomic import remove
from wasi.config.hardware import launched
from wasi.config.known_options import check_config
from wasi.config.levels import measure_level
from wasi.config.objectives import DEFAULT, Values, values_of
from wasi.config.overrides import given_value
from wasi.config.sweep_options import in_sweep, sweep_name
from wasi.config.without_effect import idle_options, remarks
from wasi.data.image_folder import in_line
from wasi.errors import Interrupted, UserError
from wasi.models.weights_file import damaged
from wasi.paths import shown
from wasi.runs.command import continue_with
from wasi.runs.ending import Ending, end_job, ending_of, print_error, tell
from wasi.runs.fail_fast import enough_failures
from wasi.runs.inputs import check_inputs, warn_of_images_seen
from wasi.runs.job_slots import acquire_job_slot
from wasi.runs.lock import folder_lock
from wasi.runs.log_file import refused_log_file
from wasi.runs.out_of_memory import with_less_memory
from wasi.runs.processes import Others, check_processes, follow
from wasi.runs.provenance import code_version, machine
from wasi.runs.record import Record
from wasi.runs.result import read_result
from wasi.signals import interruptible
from wasi.tracking import Tracker, open_tracker

log = logging.getLogger(__name__)

# How the current sweep's jobs ended in this process, by their folders and the memory limits that they had: a job that
# failed by its limit may succeed with another, which changes no result and so has the same folder.
_ended: dict[tuple[Path, float | None], Ending] = {}
_stopped: list[int] = []  # the signal that stopped a job here; a launcher's worker must not begin another


@dataclass
class Run:
    """What a run works with, and what it fills in; what is there when it ends goes into its result."""

    folder: Path
    tracker: Tracker = field(default_factory=Tracker)
    metrics: dict = field(default_factory=dict)
    layers: list = field(default_factory=list)
    classes: list = field(default_factory=list)
    history: list = field(default_factory=list)  # `train/loss` and `val/*` of each finished epoch
    resumed_from_step: int = 0
    only_measure: bool = False  # an earlier process trained it and did not measure it at this level
    first_here: bool = True  # no job ran before in this process, so its memory peak is this run's

    def start_over(self) -> None:
        """Forget what was filled in, before another attempt in the same process."""
        vars(self).update(vars(Run(self.folder, self.tracker, only_measure=self.only_measure, first_here=False)))


Body = Callable[[DictConfig, Run], None]
AnyBody = Callable[[DictConfig, Any], None]  # a benchmark's, which fills in another object than a `Run`
Perform = Callable[[DictConfig, Path, AnyBody], Ending]


def run_job(cfg: DictConfig, body: AnyBody, performer: Perform | None = None) -> float | Values | None:
    """Run `body` in the folder that Hydra made, and leave a result there.

    In a sweep only `Interrupted` is raised: failures are in the result, and the next job runs. A single run that fails
    ends the process, with 2 after a user's mistake and 1 after anything else.

    Args:
        performer: called instead of `perform`, for another kind of job.

    Returns:
        The metrics that `tune.objectives` names, by default `val/acc`, for sweepers that optimise: a number, or a tuple
        if there are several; None if the job failed, or one is absent or would be of test images.
    """
    hydra_cfg = HydraConfig.get()
    if hydra_cfg.callbacks.get("sweep") is None:  # by a file; it checks commands, so that only a job sees this
        print_error(str(UserError("hydra.callbacks.sweep", "null", "the shipped one, which checks every command")))
        sys.exit(2)
    folder, is_swept = Path(hydra_cfg.runtime.output_dir), hydra_cfg.mode == RunMode.MULTIRUN
    this_job = folder, OmegaConf.select(cfg, "device.memory_limit_mib")
    if is_swept and this_job in _ended:
        log.info("already dealt with in this sweep, skipped: %s", shown(folder))
        return _objective(cfg, folder, _ended[this_job])
    if not is_swept:
        continue_with({"hydra.run.dir": folder})
        _keep_sweep_name(cfg, read_result(folder), HydraConfig.get().overrides.task)
    elif enough_failures(hydra_cfg):
        return None
    if _stopped:
        raise Interrupted(_stopped[0])
    main = threading.current_thread() is threading.main_thread()
    if refused := refused_log_file():
        body = _raising(refused)
    alone = False
    try:
        with interruptible() if main else nullcontext():
            acquire_job_slot()
            with folder_lock(folder) as alone:
                ending = (performer or perform)(cfg, folder, body) if alone else _taken(folder)
    except UserError as error:  # a lock cannot be opened, so that nothing may be written here
        ending = ending_of(error)
        tell(ending)
    except Interrupted as stop:
        _stopped.append(stop.signum)
        raise
    if alone:  # else the sweep tries it again if it has this job twice
        _ended[this_job] = ending
    if ending.exit_code and not is_swept:
        sys.exit(ending.exit_code)
    return _objective(cfg, folder, ending)


def _objective(cfg: DictConfig, folder: Path, ending: Ending) -> float | Values | None:
    if ending.exit_code:  # the result there may be another configuration's, beside which this job was refused
        return None
    objectives = OmegaConf.select(cfg, "tune.objectives") or [DEFAULT]
    found = values_of(read_result(folder) or {}, objectives)
    return found[0] if found and len(found) == 1 else found


def _keep_sweep_name(cfg: DictConfig, before: dict | None, given: Sequence[str]) -> None:
    """Give a single run that is continued the sweep name that it began with, from which W&B's run id is derived."""
    config = (before or {}).get("config")
    name = config.get("sweep") if isinstance(config, dict) else None
    if name is not None and given_value("sweep", given) is None:
        cfg.sweep = name


def reset_ended_jobs() -> None:
    """Forget which jobs were performed, as a new sweep begins."""
    _ended.clear()


def failed_here() -> dict[Path, str]:
    """Return the jobs of the current sweep that failed in this process, by folder, with their errors."""
    last = {folder: ending for (folder, _), ending in _ended.items()}
    return {folder: str(ending.error) for folder, ending in last.items() if ending.exit_code}


def perform(cfg: DictConfig, folder: Path, body: Body) -> Ending:
    """Skip a completed run, or run `body`, and write to the result how it ended.

    Raises:
        Interrupted: a signal stopped the run; the result is written before. All other exceptions are in the result.
    """
    if launched().rank:
        return _perform_other_rank(cfg, body)
    start, record, others = time.monotonic(), Record(cfg, folder), Others()
    run = Run(folder, first_here=not _ended)
    try:
        check_config(cfg)
        check_processes(cfg, in_sweep())
        sweep_name(cfg)
        if not in_sweep():  # in a sweep the option may be meant for another job
            for remark in remarks([idle_options(cfg, HydraConfig.get().overrides.task)]):
                log.warning("%s", remark)
        if record.completed_before() and not cfg.train.rerun:
            run.only_measure = record.lacks_measurement(measure_level(cfg.train.measure))
            if not run.only_measure:
                others.dismiss()
                _finish_closing(cfg, record)
                return _skip(record, cfg.train.monitor)
            log.info("already completed, measured now: %s", shown(folder))
        check_inputs(cfg)
        warn_of_images_seen(cfg)
        if not run.only_measure:
            _start_afresh_or_resume(record, cfg.train.rerun)
            record.begin()
        others.start(folder)
        _run_body(cfg, run, body, record)
        if run.only_measure:
            record.add(run.metrics)
        ending = Ending("completed")
    except BaseException as error:  # Interrupted and SystemExit too: every ending goes into the result
        ending = ending_of(error)
    if ending.signum is None:
        others.dismiss()
    seconds = time.monotonic() - start
    found = {"metrics": run.metrics, "layers": run.layers, "classes": run.classes, "history": _history(run)}
    ending = end_job(
        ending,
        write=lambda ending: record.end(ending.status, ending.error, found, seconds, run.resumed_from_step),
        close=lambda ending: _close(run.tracker, record.content, ending),
    )
    if ending.status == "completed":
        _remove_checkpoint(folder)
        log.info("completed in %.1f s: %s", seconds, ", ".join([*_accuracies(record.content), shown(folder)]))
    gc.collect()  # reference cycles of this job must not count as the next one's memory
    return ending


def _run_body(cfg: DictConfig, run: Run, body: Body, record: Record) -> None:
    """Call `body`; with `train.on_oom=halve` again with smaller micro-batches, from the last checkpoint."""
    cfg = record.as_before(cfg, run.only_measure)
    run.tracker = open_tracker(cfg, run.folder, record.fingerprint, record.attempt)
    if run.only_measure:  # it must be measured at the size that it was trained with
        return body(cfg, run)

    def on_smaller(size: int, error: str) -> None:
        record.shrink(size, error)
        run.start_over()

    with_less_memory(lambda smaller: body(smaller, run), cfg, on_smaller)


def _perform_other_rank(cfg: DictConfig, body: Body) -> Ending:
    """Perform the run in a process that is not the first of a data-parallel run; only the first writes a result."""
    try:
        follow(cfg, lambda own, folder: body(own, Run(folder)))
    except BaseException as error:
        ending = ending_of(error)
        if ending.details:  # a user's mistake is reported by the first process
            print_error(f"process {launched().rank}: {ending.error}")
        return ending
    return Ending("completed")


def _accuracies(content: dict) -> list[str]:
    """Format the accuracies for the log, with balanced accuracy and the class of lowest recall.

    The latter two show what the accuracy on a large class hides.
    """
    metrics = content["metrics"]
    names = ("val/acc", "test/acc", "test/balanced_acc" if "test/acc" in metrics else "val/balanced_acc")
    lines = [f"{name} {metrics[name]:.4f}" for name in names if name in metrics]
    missed = [found for found in content.get("classes", ()) if found.get("recall", 1) < 1]
    worst = min(missed, key=lambda found: found["recall"], default=None)
    return lines if worst is None else [*lines, f"lowest recall {worst['recall']:.4f} (class {in_line(worst['name'])})"]


def _history(run: Run) -> list[dict]:
    """Return one entry per finished epoch, numbered from 1, with what was measured at its end."""
    return [{"epoch": epoch, **values} for epoch, values in enumerate(run.history, start=1)]


def _skip(record: Record, monitor: bool) -> Ending:
    log.info("already completed, skipped (train.rerun=true trains it again): %s", shown(record.folder))
    warn_of_other_code(record.own_before["provenance"], "the completed result")
    trained = record.own_before["provenance"]
    before = {**trained, **trained.get("measured", {})}.get("machine", {}).get("processor")
    if before not in (None, machine()["processor"]):
        log.warning("the completed result's times are those of %s; reports show them apart", before)
    if damaged(record.folder / file_names.MODEL):
        log.warning("%s is cut or damaged: train.rerun=true makes it anew", shown(record.folder / file_names.MODEL))
    if monitor and not (record.folder / file_names.MONITOR).exists():
        log.warning("train.monitor=true has no effect on a completed run: train.rerun=true trains it under watch")
    return Ending("completed")


def _start_afresh_or_resume(record: Record, rerun: bool) -> None:
    """Keep the checkpoint of this very run if that is unfinished, and delete any other.

    Raises:
        UserError: a run of another configuration left its checkpoint or its completed result here, and `train.rerun`
            is not true.
    """
    if record.holds_another() and not rerun:
        holds = f"a run {record.differing_option()}"
        unfinished = record.holds_anothers_checkpoint()
        if unfinished or record.holds_a_completed_one():
            what = f"checkpoint of {holds}" if unfinished else f"completed result of {holds}"
            allowed = f"a folder of its own; here lies the {what}, which train.rerun=true gives up"
            raise UserError("hydra.run.dir", shown(record.folder), allowed)
        log.warning("%s held the result of %s, which this one replaces", shown(record.folder), holds)
    if not record.has_checkpoint():
        return
    if record.is_same_run() and not record.completed_before():
        warn_of_other_code(record.own_before["provenance"], "the checkpoint")
    else:
        _remove_checkpoint(record.folder)


def _remove_checkpoint(folder: Path) -> None:
    """Delete the checkpoints, the weights of the best epoch, and temporary files that a killed process left."""
    written = (folder / name for name in (*file_names.CHECKPOINTS, file_names.BEST))
    for path in (*written, *folder.glob("*.tmp")):
        remove(path)


def warn_of_other_code(provenance: Mapping[str, Any], what: str) -> None:
    """Warn if `what`, which has this provenance, was made by another commit than the current one."""
    before, now = provenance.get("git_commit"), code_version().get("git_commit")
    if before != now:
        log.warning("%s comes from another commit (%s, now %s)", what, _short(before), _short(now))


def _close(tracker: Tracker, result: dict, ending: Ending) -> None:
    """Close the tracker; a failure of W&B is only a warning, as the result file is already written."""
    try:
        tracker.finish(ending.exit_code, result)
    except Exception as error:
        log.warning("the tracker could not be closed: %s", error)


def _finish_closing(cfg: DictConfig, record: Record) -> None:
    """Close the tracker of a completed run, and remove its checkpoints, if its process died before it had done so.

    The checkpoints are removed last, so one that is still there shows that the process died.
    """
    if record.has_checkpoint():
        tracker = open_tracker(cfg, record.folder, record.fingerprint, record.attempt)
        _close(tracker, record.own_before, Ending("completed"))
        _remove_checkpoint(record.folder)


def _raising(error: UserError) -> AnyBody:
    """Return a body that raises `error`, so that the job fails if there is anything left to do in it."""

    def body(cfg: DictConfig, run: Any) -> None:
        raise error

    return body


def _taken(folder: Path) -> Ending:
    log.warning("another process is at work in this folder, skipped: %s", shown(folder))
    return Ending("failed", "another process is at work in the folder", exit_code=1)


def _short(commit: str | None) -> str:
    return commit[:10] if commit else "none"
