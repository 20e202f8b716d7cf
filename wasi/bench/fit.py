"""`experiment=fit`: which methods, thresholds, optimizers, batch sizes and memory policies fit into a device's memory.

Memory and time of every combination are predicted from small steps (`wasi.bench.extrapolate`); the fastest ones that
are predicted to fit are then measured. Writes fit.json, fit.csv, fit.png and fit.svg. Imports no torch.
"""

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from wasi import file_names
from wasi.atomic import atomic_write_text
from wasi.bench.baseline import measured_config
from wasi.bench.children import Child, ChildFailed, ending_of_job
from wasi.bench.resident import resident_memory
from wasi.config.declared import method_names, reads_rank
from wasi.config.files import plain
from wasi.config.known_options import check_config
from wasi.config.validate import integer_from, is_number, list_of, one_of
from wasi.errors import UserError
from wasi.measure import rss
from wasi.report.csv_files import csv_text
from wasi.report.write import write_images
from wasi.runs.ending import Ending, end_job, printable
from wasi.runs.inputs import check_inputs
from wasi.runs.provenance import provenance

log = logging.getLogger(__name__)

_SMALL_BATCH = 20  # images in the largest step that a prediction times
_CHUNK = 4  # `train.chunk_size` of the lean policy, small because predictions run steps of three and four chunks
_SECTIONS = {"method": "methods", "optimizer": "optimizers"}  # section -> its list in bench.fit
_OPTIONS = {  # option -> the list in bench.fit that sets it
    "recipe": "methods",
    **dict.fromkeys(("rank", "rank.weight_epsilon", "rank.activation_epsilon"), "epsilons"),
    **{"dataset.batch_size": "batch_sizes", "train.memory": "memory", "train.chunk_size": "memory"},
}
_SHOWN = 25  # rows of the printed table, at most
_COLUMNS = (
    *("method", "epsilon", "optimizer", "memory", "batch_size", "fits", "measured", "at_least"),
    *("process_mib", "live_mib", "optimizer_state_mib", "model_mib", "step_ms", "epoch_seconds"),
    *("predicted_process_mib", "predicted_step_ms"),
)
_LEGEND = (
    "process: peak of the whole process, predicted as libraries, data, weights + resident x what else a step holds",
    "+ the most that a measured one took above that;",
    "live: of a whole step, from two small tracked steps; step, epoch: from two small timed steps, training images",
    "alone; model: model.safetensors; *: measured as train.py would run it, set-up included; >: weights and gradients",
    "alone, so not tried.",
)


def perform(cfg: DictConfig, folder: Path, body: Callable[[DictConfig, "Plan"], None]) -> Ending:
    """Check the configuration, run `body` and write the results so far, however it ends.

    Raises:
        Interrupted: a signal arrived; any other failure is in the returned `Ending`.
    """
    plan_ = Plan(cfg, folder)
    try:
        check_given(HydraConfig.get().overrides.task)
        check_config(cfg)
        check_fit(cfg.bench.fit)
        check_inputs(cfg)
        body(cfg, plan_)
        ending = Ending("completed")
    except BaseException as error:  # Interrupted too: results so far are written
        ending = ending_of_job(error)
    return end_job(ending, plan_.write)


def plan(cfg: DictConfig, found: "Plan") -> None:
    """Predict every combination, building each model once, in a subprocess; then measure the fastest that fit."""
    fit = cfg.bench.fit
    failure = None
    for method, epsilon in _models(fit):
        try:
            found.add(method, epsilon, _predicted(cfg, found, method, epsilon))
        except ChildFailed as error:  # for example out of memory in small steps
            failure = error
            log.warning("%s is left out: %s", _model_name(method, epsilon), error)
    if failure is not None and not found.rows:
        raise failure
    found.check(fit.check)


class Plan:
    """The combinations found so far, one dictionary each in `rows`, and the files made of them.

    An unmeasured row fits if its predicted memory plus `excess` (MiB) is at most `limit` (MiB), which is
    `device.memory_limit_mib` or all memory of the machine, and if the training set has at least one batch of its size.
    """

    def __init__(self, cfg: DictConfig, folder: Path):
        self.cfg, self.folder = cfg, folder
        self.rows: list[dict[str, Any]] = []
        limit = OmegaConf.select(cfg, "device.memory_limit_mib")  # what is checked after this may lack the section
        self.limit = limit or psutil.virtual_memory().total / rss.MIB
        self.log_file = folder / "processes.log"
        self.excess = 0.0  # MiB: the largest difference of measured and predicted memory so far

    def add(self, method: str, epsilon: float | None, predicted: dict) -> None:
        """Add the rows of one model; `predicted` is what `_predicted` returned."""
        images = predicted["images"]
        for line in predicted["left_out"]:
            log.warning("%s is left out: %s", _model_name(method, epsilon), line)
        for row in predicted["rows"]:
            process = predicted["held"] + row.pop("resident_mib")
            row |= {"method": method, "epsilon": epsilon, "model_mib": predicted["model_mib"], "images": images}
            row |= {"process_mib": process, "predicted_process_mib": process, "measured": False}
            if "step_ms" in row:
                row["predicted_step_ms"] = row["step_ms"]
            row["fits"] = process <= self.limit and row["batch_size"] <= images
            self.rows.append(_with_epoch(row))

    def check(self, count: int) -> None:
        """Measure the fastest rows that are predicted to fit, one after another, until `count` of them do.

        If a measurement exceeds its prediction, the difference is added to the predictions of all unmeasured rows. When
        none of these fits any more, those with the least memory are measured. At most `3 * count` rows are measured.
        """
        tried: list[int] = []
        while len(self.confirmed()) < count and len(tried) < 3 * count:
            row = next((row for row in [*self.fitting(), *self._doubtful()] if id(row) not in tried), None)
            if row is None:
                break
            tried.append(id(row))
            self._check(row)
        if count and not self.confirmed():
            log.warning(
                "nothing that fits is confirmed by measurement: %d were tried, which took up to %.0f MiB more than was "
                "predicted", len(tried), self.excess,
            )  # fmt: skip

    def _check(self, row: dict) -> None:
        """Measure a row and correct the predictions of the unmeasured rows."""
        cfg = _config(self.cfg, row["method"], row["epsilon"], row["optimizer"], row["memory"], row["batch_size"])
        name = _model_name(row["method"], row["epsilon"])
        log.info("measuring %s, %s, %s, batch %d", name, row["optimizer"], row["memory"], row["batch_size"])
        try:
            process, step_ms = self._measured(cfg)
        except ChildFailed as error:
            log.warning("%s could not be measured: %s", name, error)
            row["fits"] = error.status == "diverged"  # any other failure is taken for a lack of memory
            return
        row |= {"process_mib": process, "step_ms": step_ms, "measured": True, "fits": process <= self.limit}
        _with_epoch(row)
        self.excess = max(self.excess, process - row["predicted_process_mib"])
        for other in self.rows:
            if not other["measured"]:
                other["process_mib"] = other["predicted_process_mib"] + self.excess
                other["fits"] = other["fits"] and other["process_mib"] <= self.limit

    def _measured(self, cfg: DictConfig) -> tuple[float, float]:
        """Return the resident peak of the whole process (MiB) and the median of at least three steps (ms)."""
        with Child("", self.log_file, rss.child_environment(cfg.device.num_threads)) as child:
            child.ask("load", config=measured_config(cfg))
            process = resident_memory(child)["memory/process_rss_peak_mib"]
            return process, median(child.ask("time_train", warmup=0, min_count=3, min_seconds=0.0))

    def fitting(self) -> list[dict]:
        """Return the rows that fit and have a time, sorted by time per epoch."""
        found = [row for row in self.rows if row["fits"] and "epoch_seconds" in row]
        return sorted(found, key=lambda row: row["epoch_seconds"])

    def confirmed(self) -> list[dict]:
        """Return the rows that were measured and fit."""
        return [row for row in self.rows if row["measured"] and row["fits"]]

    def _doubtful(self) -> list[dict]:
        """Return unmeasured rows that fit but for `excess`, sorted by memory."""
        found = [row for row in self.rows if not (row["measured"] or row["fits"]) and "epoch_seconds" in row]
        found = [r for r in found if r["predicted_process_mib"] <= self.limit and r["batch_size"] <= r["images"]]
        return sorted(found, key=lambda row: row["process_mib"])

    def write(self, ending: Ending) -> None:
        """Write the files and print the table; nothing if a job that did not complete has no rows."""
        if not self.rows and ending.status != "completed":
            return
        fitting = self.fitting()
        rest = [row for row in self.rows if row not in fitting]
        ordered = [*fitting, *sorted(rest, key=lambda row: row["process_mib"])]
        head = {"status": ending.status, "error": ending.error, "limit_mib": self.limit}
        content = {**head, "config": measured_config(self.cfg), "rows": ordered, "environment": provenance()}
        atomic_write_text(self.folder / file_names.FIT, json.dumps(content, indent=1) + "\n")
        atomic_write_text(self.folder / file_names.FIT_TABLE, csv_text(ordered, _COLUMNS))
        if self.rows:
            from wasi.bench.fit_figure import draw

            write_images(draw(self.rows, self.limit, self.cfg.model.name), "fit", self.folder)
        stopped = "" if ending.status == "completed" else f"{ending.status} before all was looked at: "
        print(printable(stopped + self.table(ordered)), flush=True)

    def table(self, ordered: list[dict]) -> str:
        """Return the table as text: the rows that fit or, without any, the five that need least memory."""
        fitting = self.fitting()
        heading = f"{self.cfg.model.name} in {self.limit:.0f} MiB: {len(fitting)} of {len(self.rows)} combinations fit"
        heading += f", {len(self.confirmed()) or 'none'} confirmed by measurement" if fitting else ""
        shown = fitting[:_SHOWN] or ordered[:5]
        if not fitting and ordered:
            heading += "; those that want the least:"
        columns = ("method", "eps", "optimizer", "memory", "batch", "epoch s", "step ms", "process MiB", "live MiB")
        lines = [[*columns, "state MiB", "model MiB"], *map(_cells, shown)]
        widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
        text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([heading, *text, *_LEGEND, f"all rows: {self.folder}/fit.csv, fit.json; figure: fit.png"])


def check_fit(fit: DictConfig) -> None:
    """Raise a UserError for the first option of `bench.fit` that is missing, invalid or unknown."""
    optimizers = GlobalHydra.instance().config_loader().get_group_options("optimizer")
    rules = {
        "methods": (list_of(one_of(*method_names())), f"a list of {', '.join(method_names())}"),
        "epsilons": (list_of(lambda e: is_number(e) and 0 < e <= 1), "a list of numbers in (0, 1]"),
        "optimizers": (list_of(one_of(*optimizers)), f"a list of {', '.join(optimizers)}"),
        "batch_sizes": (list_of(integer_from(1)), "a list of whole numbers from 1 up"),
        "memory": (list_of(one_of("plain", "lean")), "a list of plain, lean"),
        "scope": (one_of("mlp", "attention", "all"), "mlp, attention or all"),
        "resident": (lambda value: is_number(value) and value >= 1, "a number from 1 up"),
        "check": (integer_from(0), "a whole number from 0 up"),
    }
    for option, (test, allowed) in rules.items():
        if option not in fit or not test(fit[option]):
            raise UserError(f"bench.fit.{option}", fit.get(option), allowed)
    for given in map(str, fit):
        if given not in rules:
            raise UserError(f"bench.fit.{given}", fit[given], f"one of {', '.join(rules)}")


def check_given(words: Sequence[str]) -> None:
    """Raise a UserError for an override that `experiment=fit` does not take.

    These are options that vary over the rows, which have lists in `bench.fit`, and options of the benchmark alone.

    Args:
        words: the overrides of the command line.
    """
    for word in words:
        option, _, value = word.lstrip("+~").partition("=")
        section = option.partition(".")[0]
        instead = _OPTIONS.get(option) or _SECTIONS.get(section)
        if instead is not None:
            raise UserError(option, value, f"of bench.fit.{instead}, as experiment=fit looks over several")
        if (section == "bench" and not option.startswith("bench.fit")) or (section == "logger" and value != "none"):
            raise UserError(option, value, "without experiment=fit, whose options are bench.fit.OPTION")


def _models(fit: DictConfig) -> Iterator[tuple[str, float | None]]:
    for method in fit.methods:
        yield from ((method, epsilon) for epsilon in (fit.epsilons if reads_rank(method) else [None]))


def _predicted(cfg: DictConfig, found: Plan, method: str, epsilon: float | None) -> dict:
    """Return the result of `predict` in a new subprocess, and in `held` its resident MiB before the model is built."""
    fit = cfg.bench.fit
    small = _config(cfg, method, epsilon, fit.optimizers[0], "plain", _SMALL_BATCH)
    with open_dict(small):
        if surrogate := small.model.weights == "surrogate":
            small.model.weights = "random"  # the spectrum of surrogate weights is known without making them
    log.info("looking at %s", _model_name(method, epsilon))
    with Child("", found.log_file, rss.child_environment(cfg.device.num_threads)) as child:
        child.ask("load", config=measured_config(small), smaller=True)
        held = child.ask("held")
        chosen = {name: _composed(f"optimizer={name}").optimizer for name in fit.optimizers}
        asked = {
            "optimizers": {n: plain(options, resolve=True) for n, options in chosen.items()},
            "memory": list(fit.memory),
            "batch_sizes": list(fit.batch_sizes),
            "resident": fit.resident,
            "spare_mib": found.limit - held,
            "epsilon": epsilon,
            "surrogate_spectrum": surrogate,
            "chunk_size": _CHUNK,
        }
        return {"held": held, **child.ask("predict", asked=asked)}


def _config(
    cfg: DictConfig, method: str, epsilon: float | None, optimizer: str, memory: str, batch_size: int
) -> DictConfig:
    """Return the configuration that train.py would have for this row."""
    chosen = _composed(f"method={method}", f"optimizer={optimizer}")
    other = cfg.copy()
    with open_dict(other):
        own = plain(chosen.method)
        other.method, other.optimizer = OmegaConf.create({**own, "scope": cfg.bench.fit.scope}), chosen.optimizer
        if epsilon is not None:
            other.rank.weight_epsilon = other.rank.activation_epsilon = epsilon
        other.train.memory, other.train.chunk_size = memory, _CHUNK if memory == "lean" else None
        other.dataset.batch_size = batch_size
        other.bench.fit = None
    return other


def _composed(*overrides: str) -> DictConfig:
    return compose(HydraConfig.get().job.config_name, overrides=list(overrides))


def _with_epoch(row: dict) -> dict:
    if "step_ms" in row:
        row["epoch_seconds"] = math.ceil(row["images"] / row["batch_size"]) * row["step_ms"] / 1000
    return row


def _model_name(method: str, epsilon: float | None) -> str:
    return method if epsilon is None else f"{method} {epsilon}"


def _cells(row: dict) -> list[str]:
    time = [f"{row[key]:.{digits}f}" if key in row else "-" for key, digits in (("epoch_seconds", 1), ("step_ms", 0))]
    names = ("process_mib", "live_mib", "optimizer_state_mib", "model_mib")
    mib = [f"{row[name]:.0f}" if name in row else "-" for name in names]
    if row.get("at_least"):
        mib[:2] = [f">{text}" for text in mib[:2]]
    mark = "*" if row["measured"] else ""
    what = [row["method"], "-" if row["epsilon"] is None else str(row["epsilon"]), row["optimizer"], row["memory"]]
    return [*what, str(row["batch_size"]), *time, f"{mib[0]}{mark}", *mib[1:]]
