"""The tracker for Weights & Biases; the one module of a run that imports wandb.

W&B's step is the optimizer's. All values of a step make one row, which is sent when the next step begins. Online, a
resumed run sends the rows that the server lacks. Offline, W&B begins a new file for every process, and `wandb sync` of
these would either let the last one replace the others or append them, with the steps between checkpoint and kill twice.
So the new file gets the whole history, from `history-ID.jsonl`, and the earlier files are deleted.
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

os.environ.setdefault("WANDB_SILENT", "true")  # read on import; W&B's messages would hide the table

import requests  # noqa: E402
import wandb  # noqa: E402
from omegaconf import DictConfig, OmegaConf  # noqa: E402

from wasi import file_names  # noqa: E402
from wasi.atomic import atomic_write_text  # noqa: E402
from wasi.config.files import plain  # noqa: E402
from wasi.config.hardware import is_raspberry_pi  # noqa: E402
from wasi.config.naming import rank_label, row_label  # noqa: E402
from wasi.config.rank_thresholds import activation_epsilon, threshold, weight_epsilon  # noqa: E402
from wasi.errors import NOTHING, UserError, first_line, one_line  # noqa: E402
from wasi.paths import shown, without_absolute_paths  # noqa: E402
from wasi.tracking import Tracker  # noqa: E402
from wasi.tracking.history import History, Row  # noqa: E402
from wasi.tracking.names import EPSILON, LAYER_TABLE, ROW, THRESHOLDS, TRAIN_STEP  # noqa: E402

log = logging.getLogger(__name__)

Mode = Literal["online", "offline"]

_RETRY_AFTER = 600.0  # seconds in which later jobs of this process do not try a server again that did not answer
_unreachable_since: tuple[float, str] | None = None


def check_environment() -> None:
    """Raise `UserError` for a variable WANDB_… that W&B refuses, or a value in a settings file of W&B's."""
    try:
        wandb.setup()
    except (ValueError, wandb.Error) as error:  # of pydantic, with the list `errors()`; W&B's own names no variable
        found = error.errors()[0] if hasattr(error, "errors") else {}
        name = "_".join(str(part) for part in found.get("loc", ())).upper() or "…"
        allowed = f"what W&B accepts there ({found.get('msg', one_line(error))})"
        raise UserError(f"WANDB_{name}", found.get("input", NOTHING), allowed) from None


class WandbTracker(Tracker):
    """One W&B run: history over `train/step`, the run's metrics as summary, the sweep as group.

    If a call of W&B fails, the run continues offline with all that was logged, after one warning.
    """

    def __init__(self, cfg: DictConfig, folder: Path, fingerprint: str, attempt: int = 1):
        check_environment()
        self._cfg, self._folder = cfg, folder
        self._id = run_id(str(cfg.sweep), fingerprint, attempt)
        self._name = folder.name if attempt == 1 else f"{folder.name} (attempt {attempt})"
        config = without_absolute_paths(OmegaConf.to_container(cfg, resolve=True))
        self._config: dict[str, Any] = {**config, "fingerprint": fingerprint, **row_keys(cfg)}
        self._history = History(folder / "wandb" / f"history-{self._id}.jsonl")
        self._row: tuple[int, dict[str, Any]] = (0, {})  # step and values not sent yet: more of this step may come
        self._resumed = False
        self._run = self._open()
        if self._run.url:
            log.info("W&B: %s", self._run.url)

    def resume(self, step: int) -> None:
        self._go_on(self._history.keep(step), is_new=step == 0)

    def log(self, step: int, values: dict[str, float]) -> None:
        last, pending = self._row
        if step < last:  # a run that starts over logs its ranks at step 0 again
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

    def finish(self, exit_code: int, result: dict[str, Any] | None = None, file_name: str = "result.json") -> None:
        if not self._resumed:  # it ended before it trained: keep what an earlier process logged
            self._go_on(self._history.rows(), is_new=False)

        def end() -> None:
            if not self._run.offline and exit_code == 0:
                reach(self._run.settings.base_url)  # raises without a server, for which each artifact would wait 19 s
            # A run stopped by a signal (128 + signal) may log more of this very step when it is resumed, and a server
            # does not accept more of a step that it has. An offline file is written anew then, so it gets the row now.
            if self._run.offline or exit_code <= 128:
                self._send_row()
            if result is not None:
                self._run.summary.update(result["metrics"])
                if exit_code == 0:
                    self._show(result, file_name)
            self._run.finish(exit_code=exit_code)

        self._call(end)

    def _go_on(self, rows: list[Row], is_new: bool) -> None:
        """Send what W&B lacks of `rows`, the history that is kept, and from now on write what is logged to the file.

        Args:
            is_new: whether training begins from the start, so that files of earlier processes are obsolete.
        """
        self._resumed = True
        step, values = self._row  # at step 0: logged before it was known where training goes on
        began = {} if step else values
        if began:
            self._history.append(0, began)
        if rows or is_new:
            self._remove_other_files()
        logged = {0: {}, **dict(rows)}
        logged[0] |= began
        for step, values in sorted(logged.items()):
            if step > self._row[0]:
                self._call(self._send_row)
            self._row = step, values

    def _send_row(self) -> None:
        step, values = self._row
        if values and step >= self._run.starting_step:
            self._run.log({TRAIN_STEP: step, **values}, step=step)

    def _call(self, do: Callable[[], Any]) -> None:
        """Call `do`, and if W&B fails at it, go offline and call it again.

        If that fails too, tracking ends with a warning, and training goes on.
        """
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
        """Return W&B's run, online if that is asked for and possible, else offline."""
        if self._cfg.logger.mode != "online":
            return self._init_offline()
        reason = _recently_unreachable()
        if reason is None:
            try:
                if wandb.login(prompt=False, verify=False):  # raises for a text that cannot be a key
                    reach(wandb.setup().settings.base_url)
                    return self._init("online")
                reason = "no key (`wandb login` stores one)"
            except Exception as error:
                reason = _reason(error)
                _remember(reason)
        run = self._init_offline()
        self._warn(run, reason)
        return run

    def _init_offline(self):
        try:
            return self._init("offline")
        except Exception:  # W&B's local service may still hold the id of a run that failed to start or just ended
            with suppress(Exception):
                wandb.teardown()
            return self._init("offline")

    def _init(self, mode: Mode):
        logger = self._cfg.logger
        metrics = not is_raspberry_pi(self._cfg.device.name) if logger.system_metrics is None else logger.system_metrics
        run = wandb.init(
            project=logger.project,
            entity=logger.entity,
            group=str(logger.group),
            id=self._id,
            resume="allow" if mode == "online" else None,  # an offline run has all rows and replaces the server's
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
                console="off",  # the terminal's lines contain paths, and train.log has them
                x_disable_meta=True,  # it has the paths of program, interpreter and folder
                x_disable_stats=not metrics,
                disable_git=_cloned_from_a_folder(),  # W&B would upload its path
            ),
        )
        run.define_metric(TRAIN_STEP)
        run.define_metric("*", step_metric=TRAIN_STEP)
        return run

    def _go_offline(self, error: Exception) -> None:
        """Continue in an offline run with all that was logged before the current row."""
        _remember(_reason(error))
        self._run = self._init_offline()
        self._remove_other_files(online_too=True)
        last = self._row[0]
        for step, values in self._history.rows():
            if step < last:
                self._run.log({TRAIN_STEP: step, **values}, step=step)
        self._warn(self._run, _reason(error))

    def _warn(self, run, reason: str) -> None:
        where = shlex.quote(shown(_folder_of(run)))
        log.warning("W&B is out of reach (%s): offline from here, upload it later with: wandb sync %s", reason, where)

    def _remove_other_files(self, online_too: bool = False) -> None:
        """Delete the files that earlier processes wrote for this W&B run.

        All that is in them is in the new file or on the server.
        """
        kinds = ("offline-run", "run") if online_too or self._run.offline else ("offline-run",)
        for kind in kinds:
            for folder in (self._folder / "wandb").glob(f"{kind}-*-{self._id}"):
                if folder != _folder_of(self._run):
                    shutil.rmtree(folder, ignore_errors=True)

    def _show(self, result: dict[str, Any], file_name: str) -> None:
        """Log the ranks per layer as a table, and figures; upload the result and the model as artifacts."""
        from wasi.tracking.pictures import pictures

        media: dict[str, Any] = {name: wandb.Image(image) for name, image in pictures(result).items()}
        if result["layers"]:
            columns, rows = layer_table(result["layers"])
            media[LAYER_TABLE] = wandb.Table(columns, rows)
        if media:
            self._run.log(media, step=max(self._row[0], self._run.starting_step))
        for artifact in self._artifacts(result, file_name):
            self._run.log_artifact(artifact)

    def _artifacts(self, result: dict[str, Any], file_name: str) -> Iterator:
        path = self._folder / "wandb" / f"result-{self._id}.json"
        atomic_write_text(path, json.dumps(without_absolute_paths(result), indent=2) + "\n")
        artifact = wandb.Artifact(f"result-{self._id}", type="result")
        artifact.add_file(shown(path), name=file_name, policy="immutable", skip_cache=True)
        yield artifact
        model = self._folder / file_names.MODEL
        if self._cfg.logger.log_model and model.exists():
            artifact = wandb.Artifact(f"model-{self._id}", type="model")
            artifact.add_file(shown(model), policy="immutable", skip_cache=True)
            yield artifact


def run_id(sweep: str, fingerprint: str, attempt: int = 1) -> str:
    """Return an id, equal for equal configurations in one sweep, so that a resumed run continues its history.

    Args:
        attempt: a completed run that is trained again counts as another attempt, and gets another id.
    """
    text = f"{sweep}\n{fingerprint}" if attempt == 1 else f"{sweep}\n{fingerprint}\n{attempt}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tags(cfg: DictConfig) -> list[str]:
    """Return method, model, data set and thresholds as tags; W&B takes at most 64 characters of each."""
    names = (cfg.method.name, cfg.model.name, cfg.dataset.name, rank_label(cfg))
    return [str(name)[:64] for name in dict.fromkeys(names) if name]


def row_keys(cfg: DictConfig) -> dict[str, Any]:
    """Return the keys of the run's config by which dashboards group runs, and the thresholds that they plot.

    Thresholds are those of reports. They are absent if the method reads none, as W&B does not group well by null.
    """
    config = {"method": plain(cfg.method, resolve=True)}
    read = {"weights": weight_epsilon, "activations": activation_epsilon, EPSILON: threshold}
    thresholds = {name: value for name, of in read.items() if (value := of(config)) is not None}
    return {ROW: row_label(cfg), **({THRESHOLDS: thresholds} if thresholds else {})}


def layer_table(layers: list[dict]) -> tuple[list[str | int], list[list]]:
    """Return columns and rows for `layers` of result.json, with one column per mode for the activation ranks."""
    modes = max((len(layer.get("activation_ranks", ())) for layer in layers), default=0)
    fields = ["name", "type", "in_features", "out_features", "weight_rank"]
    rows = []
    for layer in layers:
        ranks = list(layer.get("activation_ranks", ()))
        rows.append([*(layer.get(key) for key in fields), *ranks, *[None] * (modes - len(ranks))])
    return [*fields, *(f"activation_rank_{mode}" for mode in range(1, modes + 1))], rows


def _cloned_from_a_folder() -> bool:
    """Return whether the working folder belongs to a git repository whose `origin` is a path on this machine."""
    try:
        asked = ["git", "config", "--get", "remote.origin.url"]
        url = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return False
    return bool(url) and (url.startswith("file:") or not re.match(r"\w+://|[^/]+:", url))


def _folder_of(run) -> Path:
    return Path(run.dir).parent


def reach(address: str) -> None:
    """Raise `ConnectionError` if the server does not answer within a few seconds; any answer will do.

    W&B's own calls have longer timeouts, which add up, and the first failed one keeps the run's id in use.
    """
    try:
        requests.get(address, timeout=3, stream=True).close()
    except requests.RequestException as error:
        raise ConnectionError(f"no answer from {address}") from error


def _reason(error: Exception) -> str:
    return first_line(error).rstrip().rstrip(".")


def _remember(reason: str) -> None:
    global _unreachable_since
    _unreachable_since = time.monotonic(), reason


def _recently_unreachable() -> str | None:
    if _unreachable_since is None or time.monotonic() - _unreachable_since[0] > _RETRY_AFTER:
        return None
    return _unreachable_since[1]
