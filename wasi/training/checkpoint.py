"""Everything a run needs to continue (on a CPU bit for bit), in one file that is either old or new, never half."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from wasi.training.step import TrainStep

FILE_NAME = "checkpoint.pt"


@dataclass
class Progress:
    """Where training stands: whole steps done, the sums of the epoch under way, and each past epoch's results."""

    step: int = 0
    loss_sum: float = 0.0
    count: int = 0
    epochs: list[dict[str, float]] = field(default_factory=list)


def save_checkpoint(folder: Path, step: TrainStep, scheduler, progress: Progress) -> None:
    """Write `folder/checkpoint.pt` under a temporary name, then rename it."""
    temporary = folder / (FILE_NAME + ".tmp")
    state = {
        "model": step.model.state_dict(),
        "optimizer": step.optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "rng": torch.get_rng_state(),
        "progress": asdict(progress),
    }
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / FILE_NAME)


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
