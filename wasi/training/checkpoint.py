"""Everything a run needs to continue (on a CPU bit for bit), in files that are either old or new, never half."""

import logging
import os
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from wasi.training import file_names
from wasi.training.step import TrainStep

log = logging.getLogger(__name__)

_DAMAGED = (EOFError, RuntimeError, pickle.UnpicklingError)  # what torch.load has for a cut file


@dataclass
class Progress:
    """Where training stands: whole steps done, the sums of the epoch under way, and each past epoch's results."""

    step: int = 0
    loss_sum: float = 0.0
    count: int = 0
    epochs: list[dict[str, float]] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """The first epoch (from 1) of the highest `val/acc`, among those that were validated; 0 before any was."""
        accuracies = [epoch.get("val/acc", -1.0) for epoch in self.epochs]
        return accuracies.index(max(accuracies)) + 1 if max(accuracies, default=-1.0) >= 0 else 0


def save_checkpoint(folder: Path, step: TrainStep, scheduler, progress: Progress) -> None:
    """Write `folder/checkpoint.pt`; the one before it is kept as `checkpoint_before.pt`."""
    state = {
        "model": step.model.state_dict(),
        "optimizer": step.optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if step.device.type == "cuda" else [],
        "progress": asdict(progress),
    }
    _replace(folder / file_names.CHECKPOINT, state, keep=folder / file_names.CHECKPOINT_BEFORE)


def load_checkpoint(folder: Path, step: TrainStep, scheduler) -> Progress:
    """Continue from the newest checkpoint in `folder` that can be read; from the start where there is none."""
    state = _newest(folder)
    if state is None:
        return Progress()
    step.model.load_state_dict(state["model"])
    step.optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["rng"])
    for number, generator in enumerate(state.get("cuda_rng", ())[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, number)
    return Progress(**state["progress"])


def _newest(folder: Path) -> dict | None:
    """A file that a full disk or a dying machine has cut is told, and the one before it taken."""
    for path in (folder / file_names.CHECKPOINT, folder / file_names.CHECKPOINT_BEFORE):
        if not path.exists():
            continue
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except _DAMAGED as error:
            log.warning("%s cannot be read, left aside: %s", path, str(error).partition("\n")[0])
    return None


def save_best(folder: Path, step: TrainStep) -> None:
    """Write the weights to `folder/best.pt`."""
    _replace(folder / file_names.BEST, step.model.state_dict())


def load_best(folder: Path, step: TrainStep) -> None:
    """Put the weights of `folder/best.pt` into the model; the optimizer's state stays as it is."""
    state = torch.load(folder / file_names.BEST, map_location=step.device, weights_only=True)
    step.model.load_state_dict(state)


def _replace(path: Path, state: dict, keep: Path | None = None) -> None:
    """Write under a temporary name, then rename; the file that was there gets the name `keep`, if that is given.

    One temporary name, so that a killed process leaves one file, which the next save overwrites; `wasi.atomic` has one
    for every process and thread.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error.__context__, OSError):  # behind torch's own error: the file system's, such as a full disk
            raise error.__context__ from None
        raise
    if keep is not None and path.exists():
        os.replace(path, keep)
    os.replace(temporary, path)
