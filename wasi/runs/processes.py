"""`torchrun --nproc_per_node=N train.py …`: the first process writes the run's result, the others train beside it.

torch is imported only if there are several processes, so that a refusal stays quick.
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
    """The other processes of this run, which wait until they get its folder; none without `torchrun`."""

    def __init__(self):
        self._waiting = launched().world_size > 1

    def start(self, folder: Path) -> None:
        """Send the folder to the other processes, which then call the run's body too."""
        self._tell(str(folder))

    def dismiss(self) -> None:
        """Release processes that still wait for a folder, which then end; leave the process group."""
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
    """Raise `UserError` for options that several processes cannot serve together."""
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
    if ":" in cfg.device.name:
        allowed = f"cuda for {processes} processes, each of which takes a GPU of its own"
        raise UserError("device", cfg.device.name, allowed)


def check_alone() -> None:
    """Raise `UserError` for a benchmark under `torchrun`."""
    processes = launched().world_size
    if processes > 1:
        raise UserError("WORLD_SIZE", processes, "1: a benchmark is done by one process, without torchrun")


def follow(cfg: DictConfig, body: Callable[[DictConfig, Path], None]) -> None:
    """In a process that is not the first: wait for the first one's folder and call `body` with it, unless dismissed.

    The configuration that `body` gets neither saves, monitors nor limits memory, which the first process does.
    """
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
    """Return the command line with Hydra's files in a temporary folder and logging of errors only.

    The first process's command line is returned as it is.
    """
    if not launched().rank:
        return words
    folder = tempfile.mkdtemp(prefix="wasi-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    given = [word for word in words if not word.startswith("hydra.run.dir=")]
    return [*given, f"hydra.run.dir={folder}", "hydra.output_subdir=null", "hydra.job_logging.root.level=ERROR"]
