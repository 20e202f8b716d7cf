"""A run's result.json from its start, with the status `running`, to its end."""

import copy
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wasi import allocator, file_names
from wasi.config.files import flat, plain
from wasi.config.fingerprint import SCHEMA_VERSION, fingerprint
from wasi.config.hardware import device_class
from wasi.config.levels import LEVELS, measure_level
from wasi.config.naming import show
from wasi.config.relevance import relevant
from wasi.data.catalogue import dataset_identity
from wasi.measure.contention import clocks, contention
from wasi.runs.out_of_memory import with_micro_batch_size
from wasi.runs.provenance import gpu, processes, provenance, threads
from wasi.runs.result import measured, read_result, strict, write_json

_OF_MEASURING = ("git_commit", "git_dirty", "start", "machine", "allocator")  # of the provenance, noted anew by `add`
# A metric that a level of `train.measure` adds to those of the level before it.
_ADDED = {"none": "", "fast": "memory/train_peak_mib", "full": "memory/train_rss_peak_mib"}


class Record:
    """The content of one run's result.json, and what an earlier process has left in its folder.

    Args:
        cfg: the run's configuration.
        folder: the run's folder, which may hold an earlier result.
    """

    def __init__(self, cfg: DictConfig, folder: Path):
        self.folder = folder
        self.fingerprint = fingerprint(cfg)
        self.previous = _usable(read_result(folder))  # of this run or another
        self.attempt = self._attempt(cfg)
        self._begun = False
        self._clocks = clocks()
        self.content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "status": "running",
            "error": None,
            "fingerprint": self.fingerprint,
            "config": strict(resolved(cfg)),
            "provenance": {
                **provenance(), "device": _device(cfg), **_compiled(cfg), "attempt": self.attempt, **_data(cfg)
            },
            "metrics": {},
            "layers": [],
            "classes": [],
            "history": [],
        }

    def _attempt(self, cfg: DictConfig) -> int:
        """Return the number of this attempt: 1, and one more each time that a completed run is trained again."""
        before = self.own_before["provenance"].get("attempt", 1) if self.is_same_run() else 1
        again = self.completed_before() and OmegaConf.select(cfg, "train.rerun", default=False) is True
        return before + 1 if again else before

    @property
    def own_before(self) -> dict[str, Any]:
        """The earlier result in the folder if it has this run's configuration; else empty."""
        previous = self.previous or {}
        return previous if previous.get("fingerprint") == self.fingerprint else {}

    def is_same_run(self) -> bool:
        """Return whether the earlier result in the folder has this run's configuration."""
        return bool(self.own_before)

    def completed_before(self) -> bool:
        """Return whether an earlier process completed this very run."""
        return self.own_before.get("status") == "completed"

    def holds_another(self) -> bool:
        """Return whether the folder has a result of another configuration."""
        return self.previous is not None and not self.is_same_run()

    def holds_a_completed_one(self) -> bool:
        """Return whether the folder has a completed result, of whichever configuration."""
        return (self.previous or {}).get("status") == "completed"

    def holds_anothers_checkpoint(self) -> bool:
        """Return whether the folder has a result of another configuration and a checkpoint to continue it."""
        return self.holds_another() and self.has_checkpoint()

    def has_checkpoint(self) -> bool:
        """Return whether the folder has a checkpoint, of whichever configuration."""
        return any((self.folder / name).exists() for name in file_names.CHECKPOINTS)

    def differing_option(self) -> str:
        """Describe how the run whose result is in the folder differs from this one: `with train.epochs=1`."""
        configs = (self.previous or {}).get("config", {}), self.content["config"]
        before, now = ({"seed": config.get("seed"), **flat(relevant(config))} for config in configs)
        # An option that one side lacks is of another version, unless it is of `augment`: `relevant` has what is on.
        either = {**before, **now}
        known = (key for key in either if key.startswith("augment.") or (key in before and key in now))
        other = next((key for key in known if before.get(key) != now.get(key)), None)
        if other is None:
            return "of other data or an earlier version"
        return f"with {other}={show(before[other])}" if other in before else f"without {other}"

    def lacks_measurement(self, asked: str) -> bool:
        """Return whether the completed result was measured at a level below `asked` and lacks the metrics of that."""
        before = self.previous or {}
        level = measure_level(before.get("config", {}).get("train", {}).get("measure", "full"))
        less = level in LEVELS and LEVELS.index(level) < LEVELS.index(asked)
        return self.completed_before() and less and _ADDED[asked] not in before.get("metrics", {})

    def add(self, metrics: dict) -> None:
        """Add metrics that were measured after the run was completed to its result.

        Code and machine of the measurement go under `measured` in the provenance, as they may differ from those of
        training.
        """
        now = {key: value for key, value in provenance().items() if key in _OF_MEASURING} | self._at_the_end()
        self.content = copy.deepcopy(self.own_before)
        self.content["metrics"].update(measured(metrics))
        self.content["provenance"]["measured"] = now
        self._write()

    def as_before(self, cfg: DictConfig, completed: bool) -> DictConfig:
        """Return `cfg` with the micro-batch size to which this run had come down after running out of memory.

        Args:
            completed: whether the earlier process completed the run; otherwise it was stopped.
        """
        statuses = ("completed",) if completed else ("running", "interrupted")
        before = self.own_before if self.own_before.get("status") in statuses else {}
        shrunk = before.get("provenance", {}).get("out_of_memory")
        if not shrunk or cfg.train.on_oom != "halve":
            return cfg
        size = before["config"]["train"]["micro_batch_size"]
        self.content["provenance"]["out_of_memory"] = shrunk
        self.content["config"]["train"]["micro_batch_size"] = size
        if not completed:
            self._write()
        return with_micro_batch_size(cfg, size)

    def shrink(self, micro_batch_size: int, error: str) -> None:
        """Note that the run starts over with this micro-batch size; the provenance keeps those that were too large."""
        config = self.content["config"]
        too_large = config["train"]["micro_batch_size"] or config["dataset"]["batch_size"]
        attempts = self.content["provenance"].setdefault("out_of_memory", [])
        attempts.append({"micro_batch_size": too_large, "error": error})
        config["train"]["micro_batch_size"] = micro_batch_size
        self._write()

    def begin(self) -> None:
        """Write the result with the status `running`."""
        self._begun = True
        self._write()

    def end(self, status: str, error: str | None, found: dict, seconds: float, resumed_from_step: int) -> None:
        """Write how the run ended.

        A run that is refused before it began writes nothing if the folder has a completed result, or another run's
        result and checkpoint. Another completed result may be its own: the fingerprint covers the data, so it changes
        while the data are missing.

        Args:
            found: `metrics`, `layers`, `classes` and `history`.
            seconds: wall time of this process's part of the run.
        """
        if not self._begun and (self.holds_a_completed_one() or self.holds_anothers_checkpoint()):
            return
        self.content.update(status=status, error=error, **strict(found) | {"metrics": measured(found["metrics"])})
        ended = {"allocator": allocator.provenance(), "wall_seconds": seconds, **processes()}
        self.content["provenance"].update(ended | self._at_the_end())
        if resumed_from_step:
            self.content["provenance"]["resumed_from_step"] = resumed_from_step
        self._write()

    def _at_the_end(self) -> dict[str, Any]:
        """Return what affects times and is known once torch has run: threads, the GPU, load by other processes."""
        return {"threads": threads(), **gpu(self.content["provenance"]["device"]), **contention(self._clocks)}

    def _write(self) -> None:
        write_json(self.folder / file_names.RESULT, self.content)


def _usable(found: dict | None) -> dict | None:
    """Return a result that was found; None for a file of that name that is no run's result, or a damaged one."""
    objects = ("config", "provenance", "metrics")
    return found if found is not None and all(isinstance(found.get(key), dict) for key in objects) else None


def _device(cfg: DictConfig) -> str | None:
    """Return `cpu` or `cuda`; None if the configuration cannot be resolved."""
    try:
        return device_class(cfg.device.name)
    except OmegaConfBaseException:
        return None


def _compiled(cfg: DictConfig) -> dict:
    return {"compiled": True} if OmegaConf.select(cfg, "device.compile") is True else {}


def _data(cfg: DictConfig) -> dict:
    """Return a digest of an image folder's content, which identifies it wherever it lies; empty for other data sets."""
    of_a_folder = OmegaConf.select(cfg, "dataset.name") == "image_folder"
    return {"data": dataset_identity(cfg.dataset)["content"]} if of_a_folder else {}


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration with interpolations resolved; as it was written if one of them cannot be."""
    try:
        return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    except OmegaConfBaseException:
        return plain(cfg)
