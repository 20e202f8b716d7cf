"""Where a run's numbers go besides `result.json`: nowhere, or to Weights & Biases."""

from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig


class Tracker(Protocol):
    """What a run tells about itself while it lasts."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """History: `values` after optimizer step `step` (from 1)."""

    def summary(self, metrics: dict[str, Any]) -> None:
        """The numbers that stand for the whole run, named as in `result.json`."""

    def finish(self, exit_code: int) -> None:
        """Close; `exit_code` other than 0 marks the run as failed."""


class NullTracker:
    """`logger=none`."""

    def log(self, step: int, values: dict[str, float]) -> None:
        pass

    def summary(self, metrics: dict[str, Any]) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        pass


def open_tracker(cfg: DictConfig, folder: Path, fingerprint: str) -> Tracker:
    """The tracker that `logger` asks for.

    Raises:
        UserError: W&B cannot be reached or knows no key.
    """
    if cfg.logger.name == "none":
        return NullTracker()
    from wasi.tracking.wandb_tracker import WandbTracker

    return WandbTracker(cfg, folder, fingerprint)


def check_login(cfg_logger: DictConfig) -> None:
    """Once before a sweep: refuse it when W&B is asked for online and would fail in every job.

    Raises:
        UserError: W&B cannot be reached or knows no key.
    """
    if cfg_logger.name == "wandb" and cfg_logger.mode == "online":
        from wasi.tracking.wandb_tracker import log_in

        log_in()
