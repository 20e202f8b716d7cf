"""Checkpoints: all that a run needs to continue (bit for bit on a CPU), in files that are replaced atomically."""

import logging
import os
import zipfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from wasi import file_names
from wasi.training.step import TrainStep

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far training has got.

    Attributes:
        step: optimizer steps done.
        loss_sum, count: sum of the loss over the images of the current epoch so far, and their number.
        epochs: the results of each finished epoch.
    """

    step: int = 0
    loss_sum: float = 0.0
    count: int = 0
    epochs: list[dict[str, float]] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) with the highest `val/acc`, the first of several; 0 if none has been validated yet."""
        accuracies = [epoch.get("val/acc", -1.0) for epoch in self.epochs]
        return accuracies.index(max(accuracies)) + 1 if max(accuracies, default=-1.0) >= 0 else 0

    @property
    def is_at_best(self) -> bool:
        """Whether an epoch has just ended, and is the best so far."""
        return self.count == 0 and 0 < self.best_epoch == len(self.epochs)


def save_checkpoint(folder: Path, step: TrainStep, scheduler, progress: Progress) -> None:
    """Write `folder/checkpoint.pt`; the previous one is kept as `checkpoint_before.pt`.

    Saved are the states of model, optimizer, scheduler and torch's random generators of the CPU and of the step's GPU,
    and `progress`.
    """
    state = {
        "model": step.model.state_dict(),
        "optimizer": step.optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": [torch.cuda.get_rng_state(step.device)] if step.device.type == "cuda" else [],
        "progress": asdict(progress),
    }
    _replace(folder / file_names.CHECKPOINT, state, keep=folder / file_names.CHECKPOINT_BEFORE)


def load_checkpoint(folder: Path, step: TrainStep, scheduler, with_best: bool = False) -> Progress:
    """Restore the newest undamaged checkpoint in `folder`.

    Args:
        with_best: whether training will end with the weights in `best.pt`. Without these, which the checkpoint does not
            have, training begins anew.

    Returns:
        The checkpoint's progress; a new `Progress` if there is none that can be used.
    """
    state = _newest(folder)
    if state is None:
        return Progress()
    progress = Progress(**state["progress"])
    if with_best and progress.best_epoch and not progress.is_at_best and not _is_whole(folder / file_names.BEST):
        log.warning("%s lacks the weights of epoch %d: training begins anew", folder, progress.best_epoch)
        return Progress()
    step.model.load_state_dict(state["model"])
    step.optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["rng"])
    for generator in state["cuda_rng"] if step.device.type == "cuda" else []:
        torch.cuda.set_rng_state(generator, step.device)
    return progress


def _newest(folder: Path) -> dict | None:
    """Load the newest undamaged checkpoint, or return None; a warning is logged for each damaged one."""
    for path in (folder / name for name in file_names.CHECKPOINTS):
        with suppress(RuntimeError):  # of torch's reader, where the archive's directory is damaged
            if _is_whole(path):
                return torch.load(path, map_location="cpu", weights_only=True)
        if path.exists():
            log.warning("%s is damaged, left aside", path)
    return None


def _is_whole(path: Path) -> bool:
    """Return whether the file is there and has its right checksums, which torch does not check.

    `torch.save` writes a zip archive. It is read in pieces, so this takes little memory.
    """
    if not path.exists():
        return False
    with open(path, "rb") as file:  # raises OSError for a file that must not be read
        try:
            with zipfile.ZipFile(file) as archive:
                return archive.testzip() is None
        except Exception:  # which one depends on the byte that is wrong
            return False


def save_best(folder: Path, step: TrainStep) -> None:
    """Write the model's state dictionary to `folder/best.pt`."""
    _replace(folder / file_names.BEST, step.model.state_dict())


def load_best(folder: Path, step: TrainStep) -> None:
    """Load `folder/best.pt` into the model; the optimizer's state is left unchanged."""
    state = torch.load(folder / file_names.BEST, map_location=step.device, weights_only=True)
    step.model.load_state_dict(state)


def _replace(path: Path, state: dict, keep: Path | None = None) -> None:
    """Write `state` under a temporary name, then rename it to `path`; an existing file is renamed to `keep`, if given.

    The temporary name is fixed, so a killed process leaves one file, which the next save overwrites. (`wasi.atomic`
    uses another name in each process and thread.)
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error.__context__, OSError):  # the cause of torch's own error, such as a full disk
            raise error.__context__ from None
        raise
    if keep is not None and path.exists():
        os.replace(path, keep)
    os.replace(temporary, path)
