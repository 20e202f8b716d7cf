"""`sweep.json` in a sweep's folder: which jobs its command line asks for, and how many."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from wasi.atomic import atomic_write_text
from wasi.config.files import plain
from wasi.config.fingerprint import fingerprint
from wasi.data.catalogue import looking_once
from wasi.errors import UserError
from wasi.runs.result import BENCH_FILE_NAME, read_result
from wasi.runs.result import FILE_NAME as RESULT_NAME

FILE_NAME = "sweep.json"
_BY_FINGERPRINT = ("${job_folder:}", "${bench_folder:}")  # the default names, which no two configurations share
_MOST = 1000  # jobs up to which folders are listed; composing one takes some 30 ms


def write_plan(folder: Path, config: DictConfig, identity: Callable[[DictConfig], str] = fingerprint) -> None:
    """Write the names of the jobs' folders, in order and without repetition, and their number.

    If the folders are not known (a combination cannot be composed, or there are thousands of jobs), only the number of
    combinations is written, an upper bound. A sweeper that chooses its jobs as it goes (`tuned`, `optuna`) has no such
    number, and no file is written.

    Args:
        identity: returns a text that is equal for two configurations exactly when they ask for the same job.

    Raises:
        UserError: `hydra.sweep.subdir` gives different jobs one folder, in which only one of them could leave a result,
            or gives a job the folder of an earlier sweep's completed job, whose result it would replace.
    """
    if not config.hydra.sweeper["_target_"].endswith(".BasicSweeper"):
        return
    jobs = _jobs(config.hydra)
    with looking_once():
        folders = folders_of(config, jobs) if len(jobs) <= _MOST else []
        if folders and plain(config.hydra.sweep)["subdir"] not in _BY_FINGERPRINT:
            _refuse_shared_folders(config, jobs, identity)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"jobs": len(folders) or len(jobs), "folders": folders}
    atomic_write_text(folder / FILE_NAME, json.dumps(content) + "\n")


def _refuse_shared_folders(
    config: DictConfig, jobs: Sequence[list[str]], identity: Callable[[DictConfig], str]
) -> None:
    given = plain(config.hydra.sweep)["subdir"]  # unresolved
    loader = GlobalHydra.instance().config_loader()
    owners: dict[str, str] = {}
    for job in jobs:
        composed = loader.load_sweep_config(config, job)
        name, own = str(composed.hydra.sweep.subdir), identity(composed)
        if owners.setdefault(name, own) != own:
            allowed = f"a name that differs from job to job, as the default does; several jobs have {name}"
            raise UserError("hydra.sweep.subdir", given, allowed)
        if own != _completed_in(Path(composed.hydra.sweep.dir) / name, own) and not _is_repeated(composed):
            allowed = f"folders of their own; {name} has the completed result of another configuration"
            raise UserError("hydra.sweep.subdir", given, allowed)


def _completed_in(job: Path, otherwise: str) -> str:
    """Return the fingerprint of the completed run or benchmark in a folder; `otherwise` if there is none."""
    found = [read_result(job, name) or {} for name in (RESULT_NAME, BENCH_FILE_NAME)]
    done = (result for result in found if result.get("status") == "completed")
    return next((str(result.get("fingerprint")) for result in done), otherwise)


def _is_repeated(cfg: DictConfig) -> bool:
    return any(OmegaConf.select(cfg, option) is True for option in ("train.rerun", "bench.rerun"))


def _jobs(hydra_cfg: DictConfig) -> list[list[str]]:
    """Return the overrides of every combination, as Hydra's basic sweeper will make them."""
    params = hydra_cfg.sweeper.get("params") or {}
    words = [*(f"{key}={value}" for key, value in params.items()), *hydra_cfg.overrides.task]
    (jobs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)
    return jobs


def folders_of(config: DictConfig, jobs: Sequence[list[str]]) -> list[str]:
    """Return the names of the jobs' folders, without repetition; `jobs` has the overrides of each job.

    The list is empty if a combination cannot be composed, which Hydra reports later.
    """
    try:
        loader = GlobalHydra.instance().config_loader()
        return list(dict.fromkeys(str(loader.load_sweep_config(config, job).hydra.sweep.subdir) for job in jobs))
    except Exception:
        return []


def read_plan(folder: Path) -> int:
    """Return how many jobs the last command with this sweep's name asked for; 0 if that is not known."""
    return int((read_result(folder, FILE_NAME) or {}).get("jobs", 0))


def read_planned(folder: Path) -> list[str]:
    """Return the names of these jobs' folders; empty if they are not known."""
    return list((read_result(folder, FILE_NAME) or {}).get("folders", ()))
