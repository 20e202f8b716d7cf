"""`sweep.json` in a sweep's folder: which jobs its command line asks for, and how many."""

import json
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from wasi.atomic import atomic_write_text
from wasi.runs.result import read_result

FILE_NAME = "sweep.json"
_MOST = 1000  # jobs whose folders are named; composing one takes some 30 ms


def write_plan(folder: Path, config: DictConfig) -> None:
    """Keep the jobs' folders, in their order and equal ones once, and how many they are.

    Where the folders are not known (combinations that cannot be composed, thousands of jobs), only the number of
    combinations, which is the most there can be. A sweeper that chooses its jobs as it goes (`tuned`, `optuna`) has no
    such number, and leaves no file.
    """
    if not config.hydra.sweeper["_target_"].endswith(".BasicSweeper"):
        return
    jobs = _jobs(config.hydra)
    folders = folders_of(config, jobs) if len(jobs) <= _MOST else []
    folder.mkdir(parents=True, exist_ok=True)
    content = {"jobs": len(folders) or len(jobs), "folders": folders}
    atomic_write_text(folder / FILE_NAME, json.dumps(content) + "\n")


def _jobs(hydra_cfg: DictConfig) -> list[list[str]]:
    """The overrides of every combination, as Hydra's sweeper will make them."""
    params = hydra_cfg.sweeper.get("params") or {}
    words = [*(f"{key}={value}" for key, value in params.items()), *hydra_cfg.overrides.task]
    (jobs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)
    return jobs


def folders_of(config: DictConfig, jobs: Sequence[list[str]]) -> list[str]:
    """Names of the jobs' folders, by their overrides, equal ones once.

    None where a combination cannot be composed, which Hydra tells afterwards.
    """
    try:
        loader = GlobalHydra.instance().config_loader()
        return list(dict.fromkeys(str(loader.load_sweep_config(config, job).hydra.sweep.subdir) for job in jobs))
    except Exception:
        return []


def read_plan(folder: Path) -> int:
    """The number that the last command with this sweep's name asked for; 0 where that is not known."""
    return int((read_result(folder, FILE_NAME) or {}).get("jobs", 0))


def read_planned(folder: Path) -> list[str]:
    """Names of the folders of the jobs that it asked for; none where they are not known."""
    return list((read_result(folder, FILE_NAME) or {}).get("folders", ()))
