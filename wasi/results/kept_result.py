"""One kept result: result.json or bench.json without what no table needs, as a small file in results/."""

from pathlib import Path, PurePath
from typing import Any

from wasi.config.files import flat, nested, select
from wasi.config.relevance import has_effect
from wasi.errors import UserError
from wasi.report.kept import BENCH, RUN
from wasi.report.load import Run, Unusable, read_run
from wasi.report.options import result_options
from wasi.runs.result import provenance_of_times

SHARED = (
    *("model.name", "model.weights", "dataset.name", "dataset.train_size", "dataset.image_size"),
    *("dataset.batch_size", "train.epochs"),
)
OF_THE_TASK = ("model.", "dataset.")  # sections whose other options all rows must have in common, too
_PATHS = ("dataset.root", "model.weights", "method.activations.perplexity.table")
_OF_THE_JOB = ("seed", "recipe", "bench.baseline_recipe")
_PROVENANCE = (
    *("git_commit", "git_dirty", "versions", "start", "experiment", "cuda", "cpu_wait_share", "warnings"),
    *("machine.processor", "machine.architecture", "threads.torch"),
)


def kept_of(content: dict) -> dict[str, Any]:
    """Return what is kept of a completed result.json or bench.json, under the same keys and with its `kind`.

    config: the options that can change a result, those of model and data also where they are null, and seed, recipe and
        `bench.baseline_recipe`. The number of threads is in the provenance.
    """
    kept = {key: content[key] for key in ("schema_version", "status", "fingerprint", "metrics")}
    kept |= {"config": _config(content["config"]), "provenance": _provenance(content["provenance"])}
    if "ratio" not in content:
        return kept | {"kind": RUN}
    kept |= {"kind": BENCH, "ratio": content["ratio"]}
    if base := content["baseline"]:
        kept["baseline"] = {"config": _config(base["config"]), "metrics": base["metrics"]}
    return kept


def _config(config: dict) -> dict[str, Any]:
    relevant = result_options(config)
    relevant.pop("device.num_threads", None)
    of_the_task = flat({section: config.get(section, {}) for section in ("model", "dataset")})
    null = {key: None for key, value in of_the_task.items() if value is None and has_effect(key)}
    shared = {key: select(config, key) for key in SHARED}
    of_the_job = {key: value for key in _OF_THE_JOB if (value := select(config, key)) is not None}
    return nested({key: _plain(key, value) for key, value in {**null, **relevant, **shared, **of_the_job}.items()})


def _provenance(provenance: dict) -> dict[str, Any]:
    where = provenance_of_times(provenance)
    code = {key: value for key in _PROVENANCE if (value := select(where, key)) is not None}
    return nested(code) | ({"device": str(where["device"]).partition(":")[0]} if where.get("device") else {})


def read_kept(folder: Path) -> list[Run]:
    """Return every result that is kept in `folder`, in the order of the file names.

    Raises:
        UserError: there is none, or a file is not a kept result. (A report leaves such a file out with a warning, but
            a document must not lack a row unnoticed.)
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            run = read_run(path)
        except Unusable as reason:
            raise UserError("table", path, f"a file written by wasi.results collect ({reason})") from reason
        if not run.is_kept:
            raise UserError("table", path, "a file written by wasi.results collect")
        found.append(run)
    if not found:
        raise UserError("table", folder.name, f"a name with files in {folder}")
    return found


def _plain(key: str, value: Any) -> Any:
    """Return the value, of a path its last part: a kept file names no folder of a machine."""
    return PurePath(value).name if key in _PATHS and value else value
