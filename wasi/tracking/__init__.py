"""Where a run's numbers go besides `result.json`: nowhere, or to Weights & Biases."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig


class Tracker:
    """What a run reports its progress to; this one discards everything, for `logger=none`."""

    def resume(self, step: int) -> None:
        """Go on from `step` (0 from the start); discard what an earlier process logged after it."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log `values` at optimizer step `step` (0 before training); steps never decrease."""

    def flush(self) -> None:
        """Make what was logged outlast this process and its machine; called before a checkpoint."""

    def summary(self, metrics: dict[str, Any]) -> None:
        """Set the numbers that stand for the whole run, named as in `result.json`."""

    def finish(self, exit_code: int, result: dict[str, Any] | None = None, file_name: str = "result.json") -> None:
        """Close the tracker; an `exit_code` other than 0 marks the run as failed.

        Args:
            result: the content of `result.json` or `bench.json`, parts of which are shown or uploaded.
            file_name: the name under which it is uploaded.
        """


def open_tracker(cfg: DictConfig, folder: Path, fingerprint: str, attempt: int = 1) -> Tracker:
    """Return the tracker that `logger` selects.

    Args:
        attempt: 1, and one more each time that a completed run is trained again (`train.rerun`).
    """
    if cfg.logger.name == "none" or cfg.logger.mode == "disabled":
        return Tracker()
    from wasi.tracking.wandb_tracker import WandbTracker

    return WandbTracker(cfg, folder, fingerprint, attempt)
