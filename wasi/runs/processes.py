"""`torchrun --nproc_per_node=N train.py …`: the first process keeps the run's record, the others train beside it.

A process imports torch only when it is one of several, so that a refusal stays quick.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from wasi.config.hardware import launched
from wasi.config.levels import measure_level
from wasi.errors import UserError


class Others:
    """The other processes of this run, which wait to be told its folder; none, without `torchrun`."""

    def __init__(self):
        self._waiting = launched().world_size > 1

    def start(self, folder: Path) -> None:
        """They call the run's body too, from here on."""
        self._tell(str(folder))

    def dismiss(self) -> None:
        """Those that still wait are not needed; with those that do not, nothing more is shared."""
        self._tell(None)
        if launched().world_size > 1:
            from wasi.training import parallel

            parallel.leave()

    def _tell(self, folder: str | None) -> None:
        if self._waiting:
            from wasi.training import parallel

            self._waiting = False
            parallel.join()
            parallel.broadcast_from_first(folder)


def check_processes(cfg: DictConfig, in_sweep: bool) -> None:
    """Raises UserError for what several processes cannot do together."""
    processes = launched().world_size
    if processes == 1:
        return
    if in_sweep:
        allowed = f"RUN under torchrun, whose {processes} processes train one run together (hydra.mode=RUN)"
        raise UserError("hydra.mode", "MULTIRUN", allowed)
    if (level := measure_level(cfg.train.measure)) != "none":
        allowed = f"none for {processes} processes: memory and time are measured of one"
        raise UserError("train.measure", level, allowed)
    if cfg.train.on_oom == "halve":
        raise UserError("train.on_oom", "halve", f"fail for {processes} processes: one cannot start over alone")


def check_alone(what: str) -> None:
    """Raises UserError under `torchrun`, for what is done by one process."""
    processes = launched().world_size
    if processes > 1:
        raise UserError("WORLD_SIZE", processes, f"1: {what} is done by one process, without torchrun")


def follow(cfg: DictConfig, body: Callable[[DictConfig, Path], None]) -> None:
    """In any process but the first: call `body` with what concerns this process and the first one's folder."""
    from wasi.training import parallel

    parallel.join()
    folder: str | None = parallel.broadcast_from_first(None)
    less = {"train": {"save": "none", "monitor": False}, "device": {"memory_limit_mib": None}}
    try:
        if folder is not None:
            body(cast(DictConfig, OmegaConf.merge(cfg, less)), Path(folder))
    finally:
        parallel.leave()


def without_a_folder(words: list[str]) -> list[str]:
    """The command line of any process but the first: Hydra's files go where they are deleted, and little is told."""
    if not launched().rank:
        return words
    folder = tempfile.mkdtemp(prefix="wasi-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    given = [word for word in words if not word.startswith("hydra.run.dir=")]
    return [*given, f"hydra.run.dir={folder}", "hydra.output_subdir=null", "hydra.job_logging.root.level=ERROR"]
