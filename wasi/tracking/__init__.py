"""Where a run's numbers go besides `result.json`: nowhere, or to Weights & Biases."""

from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig


class Tracker(Protocol):
    """What a run tells about itself while it lasts."""

    def resume(self, step: int) -> None:
        """Training goes on from `step` (0 from the start): what an earlier process logged after it is taken back."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """History: `values` after optimizer step `step` (from 1); steps never decrease."""

    def flush(self) -> None:
        """What was logged outlasts this process and its machine; called before a checkpoint."""

    def summary(self, metrics: dict[str, Any]) -> None:
        """The numbers that stand for the whole run, named as in `result.json`."""

    def finish(self, exit_code: int, result: dict[str, Any] | None = None) -> None:
        """Close; `exit_code` other than 0 marks the run as failed.

        Args:
            result: the content of `result.json`, for what is shown of it.
        """


class NullTracker:
    """`logger=none`."""

    def resume(self, step: int) -> None:
        pass

    def log(self, step: int, values: dict[str, float]) -> None:
        pass

    def flush(self) -> None:
        pass

    def summary(self, metrics: dict[str, Any]) -> None:
        pass

    def finish(self, exit_code: int, result: dict[str, Any] | None = None) -> None:
        pass


def open_tracker(cfg: DictConfig, folder: Path, fingerprint: str, attempt: int = 1) -> Tracker:
    """The tracker that `logger` asks for.

    Args:
        attempt: 1, and one more each time that a completed run is trained again (`train.rerun`).
    """
    if cfg.logger.name == "none":
        return NullTracker()
    from wasi.tracking.wandb_tracker import WandbTracker

    return WandbTracker(cfg, folder, fingerprint, attempt)
