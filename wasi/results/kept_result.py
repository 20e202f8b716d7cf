"""One kept result: a run's accuracy or a benchmark's measurement, without what no table needs."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wasi.errors import UserError
from wasi.measure.timing import summary
from wasi.report.kept import BENCH, RUN, SCHEMA_VERSION
from wasi.report.options import result_options, row_name, select
from wasi.runs.result import provenance_of_times

_SHARED = (
    *("model.name", "model.weights", "dataset.name", "dataset.train_size", "dataset.image_size"),
    *("dataset.batch_size", "train.epochs"),
)
_OF_NO_ROW = (*_SHARED, "model.", "dataset.", "device.name")
_CODE = ("git_commit", "git_dirty", "versions", "start", "experiment", "cuda", "cpu_wait_share", "warnings")


@dataclass(frozen=True)
class Record:
    """A kept file, as it is written.

    row: the recipe's name, or what tells the method and its ranks.
    shared, config: what all rows of a table should have in common, and what defines this row: every option that can
        change a result but those of the model, the data and the kind of device; dotted keys.
    ratio, samples: of a benchmark: baseline / ours as in bench.json, and a summary of each side's times.
    baseline, baseline_config: the name of what it was measured beside, and what defines that one, as `config`.
    """

    kind: str
    row: str
    seed: int
    fingerprint: str
    shared: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, float]
    provenance: dict[str, Any]
    ratio: dict[str, dict[str, float]] = field(default_factory=dict)
    samples: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    baseline: str | None = None
    baseline_config: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def method(self) -> str:
        return str(self.config["method.name"])

    def text(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False) + "\n"


def record_of(content: dict) -> Record:
    """What is kept of a completed result.json or bench.json."""
    config = content["config"]
    where = content.get("environment") or provenance_of_times(content["provenance"])
    code = {key: where[key] for key in _CODE if key in where}
    code |= {"processor": select(where, "machine.processor"), "threads": select(where, "threads.torch")}
    code |= {"device": str(where["device"]).partition(":")[0]} if where.get("device") else {}
    told = {
        "row": row_name(config),
        "seed": config["seed"],
        "shared": {key: _plain(select(config, key)) for key in _SHARED},
        "config": _of_a_row(config),
        "metrics": content["metrics"],
        "provenance": code,
    }
    if "environment" not in content:
        return Record(RUN, fingerprint=content["fingerprint"], **told)
    base = select(content, "baseline.config")
    baseline = select(config, "bench.baseline_recipe") or (None if base is None else row_name(base))
    return Record(
        BENCH,
        fingerprint=where["fingerprint"],
        ratio=content["ratio"],
        samples={who: _summaries(kinds) for who, kinds in content["samples"].items()},
        baseline=baseline,
        baseline_config={} if base is None else _of_a_row(base),
        **told,
    )


def _of_a_row(config: dict) -> dict[str, Any]:
    return {key: _plain(value) for key, value in result_options(config).items() if not key.startswith(_OF_NO_ROW)}


def read_records(folder: Path) -> list[Record]:
    """Every record in `folder`, by file name.

    Raises:
        UserError: there are none, or a file is not one.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = Record(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError("table", path, f"a file written by wasi.results collect ({error})") from error
        if record.schema_version != SCHEMA_VERSION:
            raise UserError("table", path, f"a file of schema_version {SCHEMA_VERSION}")
        found.append(record)
    if not found:
        raise UserError("table", folder.name, f"a name with files in {folder}")
    return found


def _summaries(kinds: dict) -> dict[str, dict[str, float]]:
    """Kind -> p50, p90, iqr and n over all rounds, and their number; parts of a step stand in the metrics."""
    found = {}
    for kind, rounds in kinds.items():
        if rounds and isinstance(rounds[0], list):
            found[kind] = {**summary([ms for samples in rounds for ms in samples]), "rounds": len(rounds)}
    return found


def _plain(value: Any) -> Any:
    """A path of weights as its file name: a kept file names no machine's folders."""
    return Path(value).name if isinstance(value, str) and value.endswith(".safetensors") else value
