"""Everything a run needs to continue (on a CPU bit for bit), in files that are either old or new, never half."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from wasi.training.step import TrainStep

FILE_NAME = "checkpoint.pt"
BEST_NAME = "best.pt"


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
    """Write `folder/checkpoint.pt`."""
    state = {
        "model": step.model.state_dict(),
        "optimizer": step.optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "rng": torch.get_rng_state(),
        "progress": asdict(progress),
    }
    _replace(folder / FILE_NAME, state)


def load_checkpoint(folder: Path, step: TrainStep, scheduler) -> Progress:
    """Continue from `folder/checkpoint.pt` where there is one; otherwise from the start."""
    path = folder / FILE_NAME
    if not path.exists():
        return Progress()
    state = torch.load(path, map_location=step.device, weights_only=True)
    step.model.load_state_dict(state["model"])
    step.optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["rng"].cpu())
    return Progress(**state["progress"])


def save_best(folder: Path, step: TrainStep) -> None:
    """Write the weights to `folder/best.pt`."""
    _replace(folder / BEST_NAME, step.model.state_dict())


def load_best(folder: Path, step: TrainStep) -> None:
    """Put the weights of `folder/best.pt` into the model; the optimizer's state stays as it is."""
    state = torch.load(folder / BEST_NAME, map_location=step.device, weights_only=True)
    step.model.load_state_dict(state)


def _replace(path: Path, state: dict) -> None:
    """Write under a temporary name, then rename."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
