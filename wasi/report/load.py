"""Reads every `result.json`, `bench.json` and kept result below some folders, in one form and each once."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from wasi import file_names
from wasi.config.files import select
from wasi.config.fingerprint import SCHEMA_VERSION
from wasi.errors import UserError
from wasi.report import kept
from wasi.report.options import data_root
from wasi.runs.folder import files_below
from wasi.runs.result import provenance_of_times
from wasi.runs.tuning_file import not_chosen

STATUSES = ("completed", "running", "interrupted", "failed", "diverged", "invalid")
# Options by which reports group runs: those that are text, those that are numbers, and those that may be either.
_TEXTS = ("device.name", "dataset.root", "train.memory", "optimizer._target_", "scheduler._target_")
_NUMBERS = ("optimizer.lr", "method.weight_epsilon")
_SINGLE = ("seed", "dataset.image_size", "dataset.batch_size")
# Parts of the provenance that reports show or compare: those that are text, and those that are numbers.
_PROVENANCE_TEXTS = (
    *("git_commit", "experiment", "device", "cuda", "versions.torch"),
    *("machine.processor", "machine.architecture", "machine.hostname"),
)
_PROVENANCE_NUMBERS = ("cpu_wait_share", "threads.torch")


@dataclass(frozen=True)
class Run:
    """One result of `train.py`, or of `bench_device.py` if `is_bench`; `is_kept` if it was read from a kept file.

    `metrics` has finite numbers only, and none for what was not measured. `layers` has the ranks, as in result.json,
    and `history` per epoch `epoch`, `train/loss` and `val/*`. For a benchmark, `ratio` has per metric p50, low and high
    of baseline / this, and `baseline` is the result of the other side.
    """

    path: Path
    status: str
    error: str | None
    fingerprint: str
    config: dict
    metrics: dict[str, float]
    provenance: dict = field(default_factory=dict)
    layers: list[dict] = field(default_factory=list)
    history: list[dict] = field(default_factory=list)
    is_bench: bool = False
    is_kept: bool = False
    ratio: dict[str, dict[str, float]] = field(default_factory=dict)
    baseline: "Run | None" = None

    @property
    def completed(self) -> bool:
        return self.status == "completed"

    @property
    def shown_path(self) -> Path:
        """The path to show a reader: the run's folder, or the kept file."""
        return self.path if self.is_kept else self.path.parent

    @property
    def is_timed(self) -> bool:
        return any(name.startswith("time/") for name in self.metrics)


class Unusable(Exception):
    """The reason why a file is left out, in a few words."""


def read_runs(dirs: list[Path]) -> tuple[list[Run], list[str]]:
    """The runs below `dirs`, and a warning for every file that is left out.

    Of several results with one fingerprint the newest completed one counts, or the newest if none was completed. If
    they were timed on several kinds of hardware, the newest completed one of each kind counts.

    Raises:
        UserError: a folder does not exist, or no result can be used.
    """
    runs, warnings = [], []
    for path in _result_files(dirs):
        try:
            runs.append(read_run(path))
        except Unusable as reason:
            warnings.append(f"left out {path}: {reason}")
    if not runs:
        left_out = f" ({'; '.join(warnings)})" if warnings else ""
        allowed = f"a folder with a kept result, a bench.json or a result.json somewhere below{left_out}"
        raise UserError("DIR", " ".join(map(str, dirs)), allowed)
    _name_folders_alike(runs)
    return _each_once(runs), warnings


def read_run(path: Path) -> Run:
    """The run or benchmark in one file.

    Raises:
        Unusable: the file is damaged, has another schema, or is not the result of a run or a benchmark.
    """
    try:
        if not path.is_file():  # reading a pipe would wait
            raise OSError("no file")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: None)  # NaN, Infinity
    except (OSError, ValueError, RecursionError) as error:
        raise Unusable(f"cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise Unusable("not a JSON object")
    is_kept = kept.is_kept(content)
    if (version := content.get("schema_version")) != SCHEMA_VERSION:
        raise Unusable(f"schema_version is {version}, this program reads {SCHEMA_VERSION}")
    if is_kept and not kept.is_whole(content):
        raise Unusable("damaged: a section is no JSON object")
    status, config = content.get("status"), content.get("config")
    if status not in STATUSES:
        raise Unusable(f"status is {status!r}, expected one of {', '.join(STATUSES)}")
    if not isinstance(config, dict) or (status == "completed" and not _is_complete(config)):
        raise Unusable("config lacks model.name, dataset.name, method.name or seed")
    if status == "completed" and (damage := _damage(config, content.get("layers"))) is not None:
        raise Unusable(f"damaged: {damage}")
    found = content.get("provenance")
    provenance = provenance_of_times(found) if isinstance(found, dict) else {}
    if status == "completed" and (damage := _damage_of_provenance(provenance)) is not None:
        raise Unusable(f"damaged: {damage}")
    _tell_device(config, provenance)
    is_bench = path.name == file_names.BENCH or "ratio" in content
    run = Run(
        path=path,
        status=status,
        error=None if content.get("error") is None else str(content["error"]),
        fingerprint=str(content.get("fingerprint") or path.resolve()),
        config=config,
        metrics=_numbers(content.get("metrics")),
        provenance=provenance,
        layers=_records(content.get("layers")),
        history=_records(content.get("history")),
        is_bench=is_bench,
        is_kept=is_kept,
    )
    return _with_baseline(run, content) if is_bench else run


def _with_baseline(run: Run, content: dict) -> Run:
    """The benchmark with its ratios and, if it has a baseline, with that as a run of its own."""
    ratios = content["ratio"] if isinstance(content.get("ratio"), dict) else {}
    ratio = {name: _ratio(found) for name, bounds in ratios.items() if "p50" in (found := _numbers(bounds))}
    base = content.get("baseline")
    if not isinstance(base, dict) or not isinstance(base.get("config"), dict) or not _is_complete(base["config"]):
        return replace(run, ratio=ratio)
    if (damage := _damage(base["config"], None)) is not None:
        raise Unusable(f"damaged: of the baseline, {damage}")
    _tell_device(base["config"], run.provenance)
    other = replace(
        run,
        fingerprint=f"{run.fingerprint}/baseline",
        config=base["config"],
        metrics=_numbers(base.get("metrics")),
        provenance={key: value for key, value in run.provenance.items() if key != "warnings"},  # the run tells them all
    )
    return replace(run, ratio=ratio, baseline=other if other.metrics else None)


def _ratio(found: dict[str, float]) -> dict[str, float]:
    """A ratio without its interval if that lacks an end."""
    return found if {"low", "high"} <= found.keys() else {"p50": found["p50"]}


def _tell_device(config: dict, provenance: dict) -> None:
    """Put the device that was really used in the place of `device.name` (`auto`, say)."""
    if provenance.get("device") and isinstance(config.get("device"), dict):
        config["device"]["name"] = str(provenance["device"]).partition(":")[0]


def _name_folders_alike(runs: list[Run]) -> None:
    """Give runs on folders of images with the same content the same `dataset.root`, an absolute one if there is one.

    One folder has two names if it was given by a relative path once and by an absolute path another time.
    """
    names: dict[str, str] = {}  # content -> the name that all runs on it get
    contents: dict[str, set[str]] = {}  # name -> the contents that a folder of that name has had
    on_folders = [(one, root) for run in runs for one in (run, run.baseline) if one and (root := data_root(one.config))]
    for run, root in sorted(on_folders, key=lambda one: not PurePath(one[1]).is_absolute()):
        if content := _folder_content(run):
            names.setdefault(content, root)
            contents.setdefault(root, set()).add(content)
    for run, root in on_folders:
        told = _folder_content(run)
        found = {told} if told else contents.get(root, set())  # benchmarks do not tell the content
        if len(found) == 1:
            run.config["dataset"]["root"] = names[min(found)]


def _folder_content(run: Run) -> str | None:
    """The digest of the content of the run's data, if it tells one."""
    content = run.provenance.get("data")
    return content if isinstance(content, str) and content != "absent" else None


def _is_complete(config: dict) -> bool:
    named = all(isinstance(select(config, f"{part}.name"), str) for part in ("model", "dataset", "method"))
    return named and select(config, "seed") is not None


def _damage(config: dict, layers: Any) -> str | None:
    """What in a result has another type than a run writes, in a few words; None if reports can rely on it."""
    for key in _TEXTS:
        if not isinstance(select(config, key), (str, type(None))):
            return f"config.{key} is {select(config, key)!r}"
    for key in _NUMBERS:
        if (value := select(config, key)) is not None and not _is_finite(value):
            return f"config.{key} is {value!r}"
    for key in _SINGLE:
        if isinstance(select(config, key), (list, dict)):
            return f"config.{key} is {select(config, key)!r}"
    if not isinstance(config.get("optimizer", {}), dict):
        return f"config.optimizer is {config['optimizer']!r}"
    if not isinstance(layers, (list, type(None))):
        return f"layers is {layers!r}"
    return next((f"layers has {layer!r}" for layer in layers or () if not _is_layer(layer)), None)


def _damage_of_provenance(provenance: dict) -> str | None:
    """What in a provenance has another type than a run writes, in a few words; None if reports can rely on it."""
    for key in _PROVENANCE_TEXTS:
        if not isinstance(value := select(provenance, key), (str, type(None))):
            return f"provenance.{key} is {value!r}"
    for key in _PROVENANCE_NUMBERS:
        if (value := select(provenance, key)) is not None and not _is_finite(value):
            return f"provenance.{key} is {value!r}"
    if not isinstance(lines := provenance.get("warnings"), (list, type(None))):
        return f"provenance.warnings is {lines!r}"
    return None


def _is_layer(found: Any) -> bool:
    """Whether an entry of `layers` has the types of `wasi.methods.describe`."""
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return False
    sizes: list[Any] = [found.get("in_features"), found.get("out_features")]
    ranks = found.get("activation_ranks", [])  # absent for a dense input, as `weight_rank` is for a dense weight
    if not isinstance(ranks, list) or not all(_is_finite(size) and size > 0 for size in sizes):
        return False
    return all(map(_is_finite, [*ranks, found.get("weight_rank", 0)]))


def _numbers(metrics: Any) -> dict[str, float]:
    if not isinstance(metrics, dict):
        return {}
    return {name: value for name, value in metrics.items() if _is_finite(value)}


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _records(found: Any) -> list[dict]:
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _result_files(dirs: list[Path]) -> list[Path]:
    """The files of results, sorted within each folder. A file that is reached twice is there once."""
    found: dict[Path, Path] = {}
    for folder in dirs:
        if not folder.exists():
            raise UserError("DIR", folder, "an existing folder, or the file of a result")
        for path in sorted(_below(folder)) if folder.is_dir() else [folder]:
            found.setdefault(path.resolve(), path)
    return [path for path in found.values() if not was_tried_only(path.parent)]


def _below(folder: Path) -> Iterator[Path]:
    for name in file_names.RESULTS:
        yield from files_below(folder, name)
    yield from kept.kept_files(folder)


def was_tried_only(job: Path) -> bool:
    """Whether a tuned sweep tried the job's options and chose others; such a job is not compared."""
    return job.name in not_chosen(job.parent)


def hardware(run: Run) -> str | None:
    """The `machine_of` a run that was timed; None if it was not."""
    return machine_of(run) if run.is_timed else None


def machine_of(run: Run) -> str | None:
    """GPU, processor and threads of a run; None if it does not tell.

    Machines of one kind have the same label, whatever their host names.
    """
    processor = select(run.provenance, "machine.processor") or select(run.provenance, "machine.architecture")
    parts = (select(run.provenance, "cuda"), processor, threads_of(run))
    return ", ".join(str(part) for part in parts if part) or None


def threads_of(run: Run) -> str | None:
    """The number of torch's threads as `4 threads`; None if it is not known."""
    threads = select(run.provenance, "threads.torch")
    return threads and f"{threads} thread{'s' if threads != 1 else ''}"


def _each_once(runs: list[Run]) -> list[Run]:
    alike: dict[str, list[Run]] = {}
    for run in runs:
        alike.setdefault(run.fingerprint, []).append(run)
    return [run for members in alike.values() for run in _newest(members)]


def _newest(alike: list[Run]) -> list[Run]:
    """Of runs with one fingerprint those that count, see `read_runs`."""
    completed = [run for run in alike if run.completed]
    kinds = dict.fromkeys(label for run in completed if (label := hardware(run)))
    if len(kinds) < 2:
        return [max(alike, key=_precedence)]
    return [max((run for run in completed if hardware(run) == kind), key=_precedence) for kind in kinds]


def _precedence(run: Run) -> tuple:
    return run.completed, str(run.provenance.get("start", "")), str(run.path)  # copies of one run have equal starts
