"""One kept result: a run's accuracy or a benchmark's measurement, without what no table needs.

It is written here; `wasi.report.kept` turns it back into the form of result.json or bench.json.
"""

from functools import cache
from pathlib import Path, PurePath
from typing import Any

from wasi.config.files import flat
from wasi.config.relevance import has_effect
from wasi.errors import UserError
from wasi.measure.timing import summary
from wasi.report.kept import BENCH, RUN, SCHEMA_VERSION, KeptFolder, breakdown_of
from wasi.report.load import Run, Unusable, read_run
from wasi.report.options import result_options, row_name, select
from wasi.runs.result import provenance_of_times

SHARED = (
    *("model.name", "model.weights", "dataset.name", "dataset.train_size", "dataset.image_size"),
    *("dataset.batch_size", "train.epochs"),
)
OF_THE_TASK = ("model.", "dataset.")  # sections whose other options all rows must have in common, too
# The kind of device and the number of threads that computed are in the provenance.
_OF_NO_ROW = (*SHARED, *OF_THE_TASK, "device.name", "device.num_threads")
_CODE = ("git_commit", "git_dirty", "versions", "start", "experiment", "cuda", "cpu_wait_share", "warnings")


def kept_of(content: dict) -> dict[str, Any]:
    """What is kept of a completed result.json or bench.json, as the content of a file in results/.

    row: the recipe's name or, without a recipe, the method with its ranks.
    shared: the options that all rows of a table must have in common, by dotted key: those of model and data, and the
        number of epochs. Of a folder of images only the name is kept.
    config: the options that define this row, by dotted key: all that can change a result, except those of the model,
        the data, the kind of device and the number of threads.
    ratio, samples: for a benchmark, baseline / ours as in bench.json, and a summary of either side's times.
    baseline, baseline_config: for a benchmark, the row name of its baseline, and that row's `config`.
    baseline_breakdown: for a benchmark, the parts of its baseline's step, under their names as metrics.
    """
    config = content["config"]
    where = provenance_of_times(content["provenance"])
    code = {key: where[key] for key in _CODE if key in where}
    code |= {"processor": select(where, "machine.processor"), "threads": select(where, "threads.torch")}
    code |= {"architecture": select(where, "machine.architecture")} if select(where, "machine.architecture") else {}
    code |= {"device": str(where["device"]).partition(":")[0]} if where.get("device") else {}
    kept = {
        "schema_version": SCHEMA_VERSION,
        "kind": RUN,
        "fingerprint": content["fingerprint"],
        "row": row_name(config),
        "seed": config["seed"],
        "shared": _of_the_task(config),
        "config": _of_a_row(config),
        "metrics": content["metrics"],
        "provenance": code,
        **{"ratio": {}, "samples": {}, "baseline": None, "baseline_config": {}},
        "baseline_breakdown": {},
    }
    if "environment" not in content:
        return kept
    base = select(content, "baseline.config")
    return kept | {
        "kind": BENCH,
        "ratio": content["ratio"],
        "samples": {who: _summaries(kinds) for who, kinds in content["samples"].items()},
        "baseline": select(config, "bench.baseline_recipe") or (None if base is None else row_name(base)),
        "baseline_config": {} if base is None else _of_a_row(base),
        "baseline_breakdown": breakdown_of(select(content, "baseline.metrics") or {}),
    }


def _of_the_task(config: dict) -> dict[str, Any]:
    given = flat({section: config.get(section, {}) for section in ("model", "dataset")})
    relevant = result_options(config)
    kept = {key: relevant.get(key) for key in given if key in relevant or (given[key] is None and has_effect(key))}
    if "dataset.root" in relevant:
        kept["dataset.root"] = PurePath(relevant["dataset.root"]).name
    return {key: _plain(value) for key, value in {**kept, **{key: select(config, key) for key in SHARED}}.items()}


def _of_a_row(config: dict) -> dict[str, Any]:
    return {key: _plain(value) for key, value in result_options(config).items() if not key.startswith(_OF_NO_ROW)}


def read_kept(folder: Path) -> list[Run]:
    """Every result that is kept in `folder`, in the order of the file names.

    Raises:
        UserError: there is none, or a file is not a kept result. (A report leaves such a file out with a warning, but
            a document must not lack a row unnoticed.)
    """
    found = []
    read_folder = cache(KeptFolder.read)
    for path in sorted(folder.glob("*.json")):
        try:
            run = read_run(path, read_folder)
        except Unusable as reason:
            raise UserError("table", path, f"a file written by wasi.results collect ({reason})") from reason
        if not run.is_kept:
            raise UserError("table", path, "a file written by wasi.results collect")
        found.append(run)
    if not found:
        raise UserError("table", folder.name, f"a name with files in {folder}")
    return found


def _summaries(kinds: dict) -> dict[str, dict[str, float]]:
    """Per kind of time, in ms: p50, p90, iqr and n over all rounds, and the number of rounds.

    Kinds without rounds, which are the parts of a step, are left out: the metrics have them.
    """
    found = {}
    for kind, rounds in kinds.items():
        if rounds and isinstance(rounds[0], list):
            found[kind] = {**summary([ms for samples in rounds for ms in samples]), "rounds": len(rounds)}
    return found


def _plain(value: Any) -> Any:
    """The value, or of a path to weights its file name, so that a kept file names no folder of a machine."""
    return Path(value).name if isinstance(value, str) and value.endswith(".safetensors") else value
