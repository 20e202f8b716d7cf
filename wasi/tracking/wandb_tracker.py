"""Weights & Biases; the one module that imports it."""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("WANDB_SILENT", "true")  # read on import; its own chatter would bury the table

import wandb  # noqa: E402
from omegaconf import DictConfig, OmegaConf  # noqa: E402

from wasi.errors import UserError  # noqa: E402

log = logging.getLogger(__name__)

STEP = "train/step"


class WandbTracker:
    """One W&B run: history over `train/step`, the run's metrics as summary, the sweep as group."""

    def __init__(self, cfg: DictConfig, folder: Path, fingerprint: str):
        logger = cfg.logger
        with _one_line_errors():
            self._run = wandb.init(
                project=logger.project,
                entity=logger.entity,
                group=str(logger.group),
                name=folder.name,
                id=run_id(str(cfg.sweep), fingerprint),
                resume="allow",
                mode=logger.mode,
                dir=str(folder),
                config={**without_places(OmegaConf.to_container(cfg, resolve=True)), "fingerprint": fingerprint},
                reinit="finish_previous",
                # The metadata that W&B gathers itself are the paths of program, interpreter and folder.
                settings=wandb.Settings(init_timeout=logger.init_timeout, silent=True, x_disable_meta=True),
            )
        if self._run.url:
            log.info("W&B: %s", self._run.url)
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log({STEP: step, **values})

    def summary(self, metrics: dict[str, Any]) -> None:
        self._run.summary.update(metrics)

    def finish(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)


def run_id(sweep: str, fingerprint: str) -> str:
    """The same for the same configuration in the same sweep, so that a resumed run continues its history."""
    return hashlib.sha256(f"{sweep}\n{fingerprint}".encode()).hexdigest()[:16]


def without_places(value: Any) -> Any:
    """A configuration for others to see: absolute paths become relative to the working folder, or names.

    >>> without_places({"dataset": {"root": "/home/someone/photos"}, "lr": 0.1})
    {'dataset': {'root': 'photos'}, 'lr': 0.1}
    """
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if not isinstance(value, str) or not os.path.isabs(os.path.expanduser(value)):
        return value
    path, here = Path(os.path.expanduser(value)), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def log_in() -> None:
    """Verify the key with the server.

    Raises:
        UserError: no key, a wrong one, or no server.
    """
    with _one_line_errors():
        wandb.login()


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except wandb.Error as error:
        reason = str(error).splitlines()[0].rstrip(".")
        allowed = f"a W&B login and its server in reach ({reason}), or logger=wandb_offline, or logger=none"
        raise UserError("logger", "wandb", allowed) from error
