"""`result.json` of a run and `bench.json` of a benchmark: strict JSON, always replaced as a whole."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from wasi import file_names
from wasi.atomic import atomic_write_text

# Keys of the provenance on which measured times depend.
_OF_TIMES = ("machine", "threads", "cuda", "cuda_driver", "cuda_version", "cpu_wait_share", "allocator")


def write_json(path: Path, content: dict) -> None:
    """Write `content` to `path` atomically: a temporary file beside it, fsync, rename.

    Raises:
        ValueError: a number is NaN or infinite, which JSON does not have.
    """
    atomic_write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def outcome_line(status: str, error: str | None) -> str:
    """Return how a job ended as one line that begins with the status, without repeating it.

    >>> outcome_line("failed", "train.epochs=0"), outcome_line("diverged", "diverged: training loss is nan")
    ('failed: train.epochs=0', 'diverged: training loss is nan')
    """
    error = str(error)
    return error if error.startswith(f"{status}: ") else f"{status}: {error}"


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a file that `write_json` has written; None if there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None  # reading a pipe would wait
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return the content of the folder's result.json; None if there is none that can be read."""
    return read_json(folder / file_names.RESULT)


def own_result(folder: Path) -> dict[str, Any] | None:
    """Return the result in the folder of a sweep's job; None also for that of another configuration."""
    found = read_result(folder)
    return found if found and is_of_job(found, folder) else None


def is_of_job(result: dict[str, Any], folder: Path) -> bool:
    """Return whether the folder's name ends in the first digits of the result's fingerprint, as its job's does."""
    return folder.name.endswith(str(result.get("fingerprint", ""))[:10])


def version(path: Path) -> str | None:
    """Return a digest of the file's content, which differs once a job has written its result again; None without one.

    Neither times nor inode numbers can be compared: clocks are set back, and differ between machines. The result of a
    job that ends again as before differs at least in its wall time.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def versions(sweep: Path) -> dict[str, str | None]:
    """Return the version of each result and benchmark in the folders of a sweep's jobs, by path relative to `sweep`."""
    found = sorted(path for name in file_names.RESULTS for path in sweep.glob(f"*/{name}"))
    return {str(path.relative_to(sweep)): version(path) for path in found}


def measured(metrics: dict[str, Any]) -> dict[str, float | int]:
    """Return the metrics that are finite numbers, as Python's own types; None, NaN and infinity mean not measured.

    >>> measured({"val/acc": 0.0, "train/loss": float("nan"), "time/x": None})
    {'val/acc': 0.0}
    """
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
    return {name: value for name, value in plain.items() if value is not None and math.isfinite(value)}


def strict(value: Any) -> Any:
    """Convert `value` to strict JSON: keys, numbers that JSON does not have, and values of other types become text."""
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def provenance_of_times(provenance: dict) -> dict:
    """Return the provenance that a run's times belong to.

    If the run was measured after it was completed, this has the machine that measured in place of the one that trained.
    """
    measured = provenance.get("measured")
    if not isinstance(measured, dict):
        return provenance
    trained = {key: value for key, value in provenance.items() if key not in _OF_TIMES}
    return trained | {key: measured[key] for key in _OF_TIMES if key in measured}
