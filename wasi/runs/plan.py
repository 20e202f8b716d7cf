"""`sweep.json` in a sweep's folder: how many jobs its command line asks for."""

import json
from math import prod
from pathlib import Path

from omegaconf import DictConfig

from wasi.atomic import atomic_write_text
from wasi.config.sweep import sweep_overrides
from wasi.runs.result import read_result

FILE_NAME = "sweep.json"


def write_plan(folder: Path, hydra_cfg: DictConfig) -> None:
    """Keep the number of combinations. Equal jobs run once, so it is the most there can be.

    A sweeper that chooses its jobs as it goes (`tuned`, `optuna`) has no such number, and leaves no file.
    """
    if not hydra_cfg.sweeper["_target_"].endswith(".BasicSweeper"):
        return
    jobs = prod(sum(1 for _ in override.sweep_string_iterator()) for override in sweep_overrides(hydra_cfg))
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / FILE_NAME, json.dumps({"jobs": jobs}) + "\n")


def read_plan(folder: Path) -> int:
    """The number that the last command with this sweep's name asked for; 0 where that is not known."""
    return int((read_result(folder, FILE_NAME) or {}).get("jobs", 0))
