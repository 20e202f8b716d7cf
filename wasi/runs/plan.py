"""`sweep.json` in a sweep's folder: which jobs its command line asks for, and how many."""

import json
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from wasi import file_names
from wasi.atomic import atomic_write_text
from wasi.config.without_effect import idle_options, remarks
from wasi.data.catalogue import looking_once
from wasi.runs.folder import check_folder, make_folder
from wasi.runs.inputs import check_files
from wasi.runs.result import read_json

log = logging.getLogger(__name__)

_MOST = 1000  # jobs up to which folders are listed; composing one takes 0.1 to 0.2 s
_MANY = 20  # jobs above which it is said that they are being composed


def write_plan(folder: Path, config: DictConfig) -> None:
    """Check the jobs, make the sweep's folder, and write their number and their folders' names, each once, in order.

    An option of the command line that has no effect in any of the jobs is logged as a warning.

    For thousands of jobs only the number of combinations is written, an upper bound. Nothing is written for a command
    that Hydra is about to refuse, as a combination cannot be composed, nor for a sweeper of another kind. One that
    chooses its jobs as it goes (`tuned`, `optuna`) calls `write_jobs` itself.

    Raises:
        UserError: a job's folder is a file, or cannot be written into, or a job's weights or images are not there. This
            is found for up to `_MOST` jobs.
    """
    planned = _planned(config) if config.hydra.sweeper["_target_"].endswith(".BasicSweeper") else None
    make_folder("hydra.sweep.dir", str(folder))  # not before: a sweep that is refused leaves nothing behind
    if planned is not None:
        write_jobs(folder, *planned)


def _planned(config: DictConfig) -> tuple[int, list[str]] | None:
    """Check the jobs, and return their number and the names of their folders, as `write_plan` writes them."""
    jobs = _jobs(config.hydra)
    folders: list[str] = []
    idle: list[dict[str, str]] = []  # of each job

    def look(job: DictConfig, name: str) -> None:
        own = Path(job.hydra.sweep.dir) / name
        check_folder("hydra.sweep.dir", str(own / (job.hydra.output_subdir or "")))
        check_files(job)
        idle.append(idle_options(job, config.hydra.overrides.task))

    if len(jobs) <= _MOST:
        if len(jobs) > _MANY:
            log.info("checking %d jobs ...", len(jobs))
        with looking_once():
            folders = folders_of(config, jobs, look)
        if not folders:
            return None
        for remark in remarks(idle):
            log.warning("%s", remark)
    return len(folders) or len(jobs), folders


def write_jobs(sweep: Path, number: int, folders: Sequence[str] = ()) -> None:
    """Write how many jobs the sweep has, at most, and the names of all their folders if they are known."""
    atomic_write_text(sweep / file_names.SWEEP, json.dumps({"jobs": number, "folders": list(folders)}) + "\n")


def _jobs(hydra_cfg: DictConfig) -> list[list[str]]:
    """Return the overrides of every combination, as Hydra's basic sweeper will make them."""
    params = hydra_cfg.sweeper.get("params") or {}
    words = [*(f"{key}={value}" for key, value in params.items()), *hydra_cfg.overrides.task]
    (jobs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)
    return jobs


def folders_of(
    config: DictConfig, jobs: Sequence[list[str]], look: Callable[[DictConfig, str], None] = lambda job, name: None
) -> list[str]:
    """Return the names of the jobs' folders, without repetition; `jobs` has the overrides of each job.

    The list is empty if a combination cannot be composed, which Hydra reports later.

    Args:
        look: called with the configuration of each job and the name of its folder.
    """
    names = []
    for words in jobs:
        try:
            job = GlobalHydra.instance().config_loader().load_sweep_config(config, words)
            names.append(str(job.hydra.sweep.subdir))
        except Exception:
            return []
        look(job, names[-1])
    return list(dict.fromkeys(names))


def read_plan(sweep: Path) -> tuple[int, list[str]]:
    """Return how many jobs the last command with this sweep's name asked for, and the names of their folders.

    The number is 0, and the list is empty, if that is not known.
    """
    plan = read_json(sweep / file_names.SWEEP) or {}
    jobs, folders = plan.get("jobs"), plan.get("folders")
    names = [str(name) for name in folders] if isinstance(folders, list) else []
    return jobs if isinstance(jobs, int) else 0, names


def not_begun(sweep: Path, begun: Collection[str]) -> tuple[int, bool]:
    """Return how many jobs of the sweep's last command have no folder among `begun`, and whether the plan names them.

    Without their names the number is an upper bound.
    """
    total, planned = read_plan(sweep)
    return (len({*planned}.difference(begun)), True) if planned else (max(0, total - len(begun)), False)
