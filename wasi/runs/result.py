"""`result.json` and `bench.json`: what a run and a benchmark leave. The old or the new file whole; strict JSON."""

import json
import math
from pathlib import Path
from typing import Any

from wasi.atomic import atomic_write_text

FILE_NAME, BENCH_FILE_NAME = "result.json", "bench.json"
_OF_TIMES = ("machine", "threads", "cuda", "cpu_wait_share", "allocator")  # of the provenance


def write_json(path: Path, content: dict) -> None:
    """Write `content` to `path` in one step: a temporary file beside it, fsync, rename.

    Raises:
        ValueError: a number that JSON does not have (NaN, infinity).
    """
    atomic_write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def told_ending(status: str, error: str | None) -> str:
    """How a job ended in one line, which begins with the status, once.

    >>> told_ending("failed", "train.epochs=0"), told_ending("diverged", "diverged: training loss is nan")
    ('failed: train.epochs=0', 'diverged: training loss is nan')
    """
    error = str(error)
    return error if error.startswith(f"{status}: ") else f"{status}: {error}"


def read_result(folder: Path, file_name: str = FILE_NAME) -> dict[str, Any] | None:
    """The folder's result, or None where there is none that can be read."""
    try:
        result = json.loads((folder / file_name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) else None


def measured(metrics: dict[str, Any]) -> dict[str, float | int]:
    """The metrics that are numbers, as Python's own; one that is None, NaN or infinite was not measured.

    >>> measured({"val/acc": 0.0, "train/loss": float("nan"), "time/x": None})
    {'val/acc': 0.0}
    """
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
    return {name: value for name, value in plain.items() if value is not None and math.isfinite(value)}


def strict(value: Any) -> Any:
    """`value` with keys, and numbers that JSON does not have, as text (a configuration may hold some)."""
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def provenance_of_times(provenance: dict) -> dict:
    """With the machine that measured a run after it was completed in the place of the one that trained it."""
    measured = provenance.get("measured")
    if not isinstance(measured, dict) or "machine" not in measured:  # an older result does not tell
        return provenance
    trained = {key: value for key, value in provenance.items() if key not in _OF_TIMES}
    return trained | {key: measured[key] for key in _OF_TIMES if key in measured}
