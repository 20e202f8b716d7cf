"""A run's result while it comes into being: `running` at the start, its ending at the end."""

import copy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wasi import allocator
from wasi.config.fingerprint import SCHEMA_VERSION, fingerprint
from wasi.config.hardware import device_class
from wasi.runs.provenance import provenance, threads
from wasi.runs.result import FILE_NAME, measured, read_result, strict, write_json

_MEASURED = "memory/train_peak_mib"


class Record:
    """Args:
    cfg: the run's configuration; folder: the run's folder, which may hold an earlier result.
    """

    def __init__(self, cfg: DictConfig, folder: Path):
        self.folder = folder
        self.fingerprint = fingerprint(cfg)
        self.previous = read_result(folder)
        self._begun = False
        self.content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "status": "running",
            "error": None,
            "fingerprint": self.fingerprint,
            "config": strict(resolved(cfg)),
            "provenance": {**provenance(), "device": _device(cfg)},
            "metrics": {},
            "layers": [],
            "classes": [],
        }

    def is_same_run(self) -> bool:
        """Whether the folder's result is of this configuration."""
        return self.previous is not None and self.previous.get("fingerprint") == self.fingerprint

    def completed_before(self) -> bool:
        return self.is_same_run() and self.previous.get("status") == "completed"

    def lacks_measurement(self) -> bool:
        """Whether the completed result is of a run with `train.measure=false`."""
        before = self.previous or {}
        asked = before.get("config", {}).get("train", {}).get("measure", True)
        return self.completed_before() and not asked and _MEASURED not in before.get("metrics", {})

    def add(self, metrics: dict) -> None:
        """What was measured after a completed run, into its result; with the code that measured."""
        self.content = copy.deepcopy(self.previous)
        self.content["metrics"].update(measured(metrics))
        now = {key: value for key, value in provenance().items() if key in ("git_commit", "git_dirty", "start")}
        self.content["provenance"]["measured"] = now
        self._write()

    def begin(self) -> None:
        self._begun = True
        self._write()

    def end(self, status: str, error: str | None, found: dict, seconds: float, resumed_from_step: int) -> None:
        """Write the ending; a run refused before it began leaves a completed result of its kind alone.

        Args:
            found: `metrics`, `layers` and `classes`.
        """
        if self.completed_before() and not self._begun:
            return
        self.content.update(status=status, error=error, **strict(found) | {"metrics": measured(found["metrics"])})
        self.content["provenance"].update(threads=threads(), allocator=allocator.provenance(), wall_seconds=seconds)
        if resumed_from_step:
            self.content["provenance"]["resumed_from_step"] = resumed_from_step
        self._write()

    def _write(self) -> None:
        write_json(self.folder / FILE_NAME, self.content)


def _device(cfg: DictConfig) -> str | None:
    """`cpu` or `cuda`; None where the configuration does not tell."""
    try:
        return device_class(cfg.device.name)
    except OmegaConfBaseException:
        return None


def resolved(cfg: DictConfig) -> dict:
    """The configuration without interpolations; as it was written where one of them leads nowhere."""
    try:
        return OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException:
        return OmegaConf.to_container(cfg, resolve=False)
