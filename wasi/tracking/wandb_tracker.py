"""Weights & Biases; the one module of a run that imports it.

W&B's own step is the optimizer's, and each step is one row that is sent when the next one begins. Online, a run that is
resumed gets what the server lacks. Offline, W&B begins a new file for every process, and `wandb sync` would either let
the last one replace the others or append one to the other, with the steps between checkpoint and kill twice: so the
new file gets the whole history, from `history-ID.jsonl`, and takes the place of those before it.
"""

import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("WANDB_SILENT", "true")  # read on import; its own chatter would bury the table

import requests  # noqa: E402
import wandb  # noqa: E402
from omegaconf import DictConfig, OmegaConf  # noqa: E402

from wasi.atomic import atomic_write_text  # noqa: E402
from wasi.config.hardware import is_raspberry_pi  # noqa: E402
from wasi.config.naming import rank_label, row_label  # noqa: E402
from wasi.config.reads import thresholds_read  # noqa: E402
from wasi.models.weights_file import FILE_NAME as MODEL  # noqa: E402
from wasi.tracking.history import History, Row  # noqa: E402
from wasi.tracking.names import LAYER_TABLE, ROW, THRESHOLDS, TRAIN_STEP  # noqa: E402
from wasi.tracking.paths import without_absolute_paths  # noqa: E402

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]

_RETRY_AFTER = 600.0  # seconds in which the jobs of a sweep do not try again to reach a server that did not answer
_unreachable_since: tuple[float, str] | None = None


class WandbTracker:
    """One W&B run: history over `train/step`, the run's metrics as summary, the sweep as group.

    Whatever W&B cannot do ends in an offline run with all that was logged, and in one warning.
    """

    def __init__(self, cfg: DictConfig, folder: Path, fingerprint: str, attempt: int = 1):
        self._cfg, self._folder = cfg, folder
        self._id = run_id(str(cfg.sweep), fingerprint, attempt)
        self._name = folder.name if attempt == 1 else f"{folder.name} (attempt {attempt})"
        config = without_absolute_paths(OmegaConf.to_container(cfg, resolve=True))
        self._config: dict[str, Any] = {**config, "fingerprint": fingerprint, **row_keys(cfg)}
        self._history = History(folder / "wandb" / f"history-{self._id}.jsonl")
        self._row: tuple[int, dict[str, Any]] = (0, {})  # not sent yet: there may be more of this step
        self._resumed = False
        self._run = self._open()
        if self._run.url:
            log.info("W&B: %s", self._run.url)

    def resume(self, step: int) -> None:
        self._go_on(self._history.keep(step), is_new=step == 0)

    def log(self, step: int, values: dict[str, float]) -> None:
        last, pending = self._row
        if step < last:  # a run that goes on tells again what it is made of
            return
        if step > last:
            self._call(self._send_row)
            pending = {}
        self._row = step, {**pending, **values}
        if self._resumed:
            self._history.append(step, values)

    def flush(self) -> None:
        self._history.sync()

    def summary(self, metrics: dict[str, Any]) -> None:
        self._call(lambda: self._run.summary.update(metrics))

    def finish(self, exit_code: int, result: dict[str, Any] | None = None) -> None:
        if not self._resumed:  # it ended before it trained: what an earlier process logged stands
            self._go_on(self._history.rows(), is_new=False)

        def end() -> None:
            if not self._run.offline and exit_code == 0:
                reach(self._run.settings.base_url)  # else each artifact waits for a dead server, 19 s or so
            # A stopped run goes on later, perhaps with the validation of this very step, which a server that has the
            # step would not take any more. A file is made anew, so it may have the row now.
            if self._run.offline or exit_code <= 128:
                self._send_row()
            if result is not None:
                self._run.summary.update(result["metrics"])
                if exit_code == 0:
                    self._show(result)
            self._run.finish(exit_code=exit_code)

        self._call(end)

    def _go_on(self, rows: list[Row], is_new: bool) -> None:
        """Send what W&B lacks of the history that stands, and from now on keep what is logged."""
        self._resumed = True
        began = self._row[1]  # what the run is made of, logged before it was known where training goes on
        if began:
            self._history.append(0, began)
        if rows or is_new:
            self._remove_other_files()
        standing = {0: {}, **dict(rows)}
        standing[0] |= began
        for step, values in sorted(standing.items()):
            if step > self._row[0]:
                self._call(self._send_row)
            self._row = step, values

    def _send_row(self) -> None:
        step, values = self._row
        if values and step >= self._run.starting_step:
            self._run.log({TRAIN_STEP: step, **values}, step=step)

    def _call(self, do: Callable[[], Any]) -> None:
        """What W&B fails at, once more with an offline run; failing at that too ends tracking, not training."""
        try:
            do()
        except Exception as error:
            offline = self._run.offline
            try:
                if offline:
                    raise
                self._go_offline(error)
                do()
            except Exception as again:
                log.warning("W&B gets nothing more of this run: %s", _reason(again))
                self._run = wandb.init(mode="disabled", reinit="create_new")

    def _open(self):
        """Online where that is asked for and works."""
        if self._cfg.logger.mode != "online":
            return self._init_offline(self._cfg.logger.mode)
        reason = _recently_unreachable()
        if reason is None and not wandb.login(prompt=False, verify=False):
            reason = "no key (`wandb login` stores one)"
        if reason is None:
            try:
                reach(wandb.setup().settings.base_url)
                return self._init("online")
            except Exception as error:
                reason = _reason(error)
                _remember(reason)
        run = self._init_offline()
        self._warn(run, reason)
        return run

    def _init_offline(self, mode: Mode = "offline"):
        try:
            return self._init(mode)
        except Exception:  # W&B's local service has the id still, of a run that failed to start or has just ended
            with suppress(Exception):
                wandb.teardown()
            return self._init(mode)

    def _init(self, mode: Mode):
        logger = self._cfg.logger
        metrics = not is_raspberry_pi(self._cfg.device.name) if logger.system_metrics is None else logger.system_metrics
        run = wandb.init(
            project=logger.project,
            entity=logger.entity,
            group=str(logger.group),
            id=self._id,
            resume="allow" if mode == "online" else None,  # an offline run is whole: it replaces what a server has
            mode=mode,
            dir=str(self._folder),
            reinit="finish_previous",
            name=self._name,
            tags=tags(self._cfg),
            config=self._config,
            settings=wandb.Settings(
                init_timeout=logger.init_timeout,
                finish_timeout=logger.finish_timeout,
                finish_timeout_raises=True,
                silent=True,
                console="off",  # lines of the terminal name folders, and train.log has them
                x_disable_meta=True,  # which would be the paths of program, interpreter and folder
                x_disable_stats=not metrics,
                disable_git=_cloned_from_a_folder(),  # which W&B would tell
            ),
        )
        run.define_metric(TRAIN_STEP)
        run.define_metric("*", step_metric=TRAIN_STEP)
        return run

    def _go_offline(self, error: Exception) -> None:
        """From the run under way to an offline one with all that was logged but for the last row."""
        _remember(_reason(error))
        self._run = self._init_offline()
        self._remove_other_files(online_too=True)
        last = self._row[0]
        for step, values in self._history.rows():
            if step < last:
                self._run.log({TRAIN_STEP: step, **values}, step=step)
        self._warn(self._run, _reason(error))

    def _warn(self, run, reason: str) -> None:
        where = shlex.quote(_shown(_folder_of(run)))
        log.warning("W&B is out of reach (%s): offline from here, upload it later with: wandb sync %s", reason, where)

    def _remove_other_files(self, online_too: bool = False) -> None:
        """Of this W&B run, those of earlier processes: all of it is in the file now begun, or on the server."""
        kinds = ("offline-run", "run") if online_too or self._run.offline else ("offline-run",)
        for kind in kinds:
            for folder in (self._folder / "wandb").glob(f"{kind}-*-{self._id}"):
                if folder != _folder_of(self._run):
                    shutil.rmtree(folder, ignore_errors=True)

    def _show(self, result: dict[str, Any]) -> None:
        """Ranks per layer as a table, pictures, and the result and the model as artifacts."""
        from wasi.tracking.pictures import pictures

        shown: dict[str, Any] = {name: wandb.Image(image) for name, image in pictures(result).items()}
        if result["layers"]:
            columns, rows = layer_table(result["layers"])
            shown[LAYER_TABLE] = wandb.Table(columns, rows)
        if shown:
            self._run.log(shown, step=max(self._row[0], self._run.starting_step))
        for artifact in self._artifacts(result):
            self._run.log_artifact(artifact)

    def _artifacts(self, result: dict[str, Any]) -> Iterator:
        path = self._folder / "wandb" / f"result-{self._id}.json"
        atomic_write_text(path, json.dumps(without_absolute_paths(result), indent=2) + "\n")
        artifact = wandb.Artifact(f"result-{self._id}", type="result")
        artifact.add_file(_shown(path), name="result.json", policy="immutable", skip_cache=True)
        yield artifact
        model = self._folder / MODEL
        if self._cfg.logger.log_model and model.exists():
            artifact = wandb.Artifact(f"model-{self._id}", type="model")
            artifact.add_file(_shown(model), policy="immutable", skip_cache=True)
            yield artifact


def run_id(sweep: str, fingerprint: str, attempt: int = 1) -> str:
    """The same for the same configuration in the same sweep, so that a resumed run continues its history.

    Args:
        attempt: a run that was completed and is trained again is another one for W&B.
    """
    told = f"{sweep}\n{fingerprint}" if attempt == 1 else f"{sweep}\n{fingerprint}\n{attempt}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def tags(cfg: DictConfig) -> list[str]:
    """Method, model, data set and thresholds, to filter by; W&B takes at most 64 characters of each."""
    names = (cfg.method.name, cfg.model.name, cfg.dataset.name, rank_label(cfg))
    return [str(name)[:64] for name in dict.fromkeys(names) if name]


def row_keys(cfg: DictConfig) -> dict[str, Any]:
    """What dashboards group runs by, and the thresholds by which they place them; W&B groups badly by null."""
    thresholds = thresholds_read(cfg)
    return {ROW: row_label(cfg), **({THRESHOLDS: thresholds} if thresholds else {})}


def layer_table(layers: list[dict]) -> tuple[list[str | int], list[list]]:
    """Columns and rows of `layers` in result.json, the activations' ranks one column per mode."""
    modes = max((len(layer.get("activation_ranks", ())) for layer in layers), default=0)
    told = ["name", "type", "in_features", "out_features", "weight_rank"]
    rows = []
    for layer in layers:
        ranks = list(layer.get("activation_ranks", ()))
        rows.append([*(layer.get(key) for key in told), *ranks, *[None] * (modes - len(ranks))])
    return [*told, *(f"activation_rank_{mode}" for mode in range(modes))], rows


def _cloned_from_a_folder() -> bool:
    """Whether the working folder belongs to a git repository whose `origin` is a place on this machine."""
    try:
        asked = ["git", "config", "--get", "remote.origin.url"]
        url = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return False
    return bool(url) and (url.startswith("file:") or not re.match(r"\w+://|[^/]+:", url))


def _folder_of(run) -> Path:
    return Path(run.dir).parent


def _shown(path: Path) -> str:
    """Relative to the working folder where it lies inside."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def reach(address: str) -> None:
    """Raises OSError where nobody answers within a few seconds; any answer will do.

    W&B's own calls have timeouts of their own, which add up, and the first failed one keeps the run's id in use.
    """
    try:
        requests.get(address, timeout=3, stream=True).close()
    except requests.RequestException as error:
        raise ConnectionError(f"no answer from {address}") from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _remember(reason: str) -> None:
    global _unreachable_since
    _unreachable_since = time.monotonic(), reason


def _recently_unreachable() -> str | None:
    if _unreachable_since is None or time.monotonic() - _unreachable_since[0] > _RETRY_AFTER:
        return None
    return _unreachable_since[1]
