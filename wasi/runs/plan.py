"""`sweep.json` in a sweep's folder: which jobs its command line asks for, and how many."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from wasi import file_names
from wasi.atomic import atomic_write_text
from wasi.config.files import plain
from wasi.config.fingerprint import fingerprint
from wasi.config.known_options import check_config
from wasi.config.without_effect import idle_options, remarks
from wasi.data.catalogue import looking_once
from wasi.errors import UserError
from wasi.runs.folder import check_folder
from wasi.runs.inputs import check_inputs
from wasi.runs.launching import launcher_name
from wasi.runs.result import read_result

log = logging.getLogger(__name__)

_MOST = 1000  # jobs up to which folders are listed; composing one takes some 30 ms


def write_plan(
    folder: Path,
    config: DictConfig,
    identity: Callable[[DictConfig], str] = fingerprint,
    file_name: str = file_names.RESULT,
    default_subdir: str = "${job_folder:}",
) -> None:
    """Write the names of the jobs' folders, in order and without repetition, and their number.

    An option of the command line that has no effect in any of the jobs is logged as a warning.

    If the folders are not known (a combination cannot be composed, or there are thousands of jobs), only the number of
    combinations is written, an upper bound. A sweeper that chooses its jobs as it goes (`tuned`, `optuna`) has no such
    number, and no file is written.

    Args:
        identity: returns a text that is equal for two configurations exactly when they ask for the same job.
        file_name: of a job's result.
        default_subdir: the `hydra.sweep.subdir` that is made of the identity, so that no two jobs share a folder.

    Raises:
        UserError: `hydra.sweep.subdir` gives different jobs one folder, in which only one of them could leave a result,
            or gives a job the folder of an earlier sweep's completed job, whose result it would replace, or a folder
            that cannot be written into. This is found for up to `_MOST` jobs, if the folders are known.
    """
    if not config.hydra.sweeper["_target_"].endswith(".BasicSweeper"):
        return
    jobs = _jobs(config.hydra)
    folders: list[str] = []
    if len(jobs) <= _MOST:
        owner = None if plain(config.hydra).get("sweep", {}).get("subdir") == default_subdir else identity
        with looking_once():
            folders = _folders(config, jobs, owner, file_name)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"jobs": len(folders) or len(jobs), "folders": folders}
    atomic_write_text(folder / file_names.SWEEP, json.dumps(content) + "\n")


def _folders(
    config: DictConfig, jobs: Sequence[list[str]], identity: Callable[[DictConfig], str] | None, file_name: str
) -> list[str]:
    """Return the names of the jobs' folders, as `folders_of`; with an `identity`, check that each job has its own."""
    rerun = "bench.rerun" if file_name == file_names.BENCH else "train.rerun"
    owners: dict[tuple[str, str], str] = {}
    idle: list[dict[str, str]] = []  # of each job
    for number, job in enumerate(jobs):
        try:
            composed = GlobalHydra.instance().config_loader().load_sweep_config(config, job)
            with open_dict(composed):
                composed.hydra.job.num = number
                if launcher_name(config.hydra) == "BasicLauncher":  # others' are not known here, nor folders named so
                    composed.hydra.job.id = str(number)
            where, name = str(composed.hydra.sweep.dir), str(composed.hydra.sweep.subdir)
        except Exception:
            return []
        idle.append(idle_options(composed, config.hydra.overrides.task))
        check_folder("hydra.sweep.subdir", str(Path(where) / name))
        own = "" if identity is None else identity(composed)
        if owners.setdefault((where, name), own) != own:
            allowed = f"a name that differs from job to job, as the default does; several jobs have {name}"
            raise UserError("hydra.sweep.subdir", plain(config.hydra.sweep)["subdir"], allowed)
        if own and _would_replace(composed, name, own, file_name) and OmegaConf.select(composed, rerun) is not True:
            there = f"{name} has the completed result of another configuration, which {rerun}=true gives up"
            given = plain(config.hydra.sweep)["subdir"]
            raise UserError("hydra.sweep.subdir", given, f"folders of their own; {there}")
    for remark in remarks(idle):
        log.warning("%s", remark)
    return list(dict.fromkeys(name for _, name in owners))


def _would_replace(cfg: DictConfig, name: str, own: str, file_name: str) -> bool:
    """Return whether the folder has a completed result with another fingerprint than `own`.

    Raises:
        UserError: there is one, and the job would only replace it by its failure: an option is not allowed, or data or
            weights are absent, without which the fingerprint is another one, too.
    """
    done = read_result(Path(cfg.hydra.sweep.dir) / name, file_name) or {}
    if done.get("status") != "completed" or done.get("fingerprint") == own:
        return False
    check_config(cfg)
    check_inputs(cfg)
    return True


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
    jobs = (read_result(folder, file_names.SWEEP) or {}).get("jobs")
    return jobs if isinstance(jobs, int) else 0


def read_planned(folder: Path) -> list[str]:
    """Return the names of these jobs' folders; empty if they are not known."""
    folders = (read_result(folder, file_names.SWEEP) or {}).get("folders")
    return [str(name) for name in folders] if isinstance(folders, list) else []
