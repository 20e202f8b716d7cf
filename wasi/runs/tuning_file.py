"""tuning.json: what a tuned sweep has tried and chosen, beside its jobs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wasi.config.relevance import has_effect
from wasi.runs.result import read_result, write_json
from wasi.runs.tuned_row import TunedRow
from wasi.runs.tuning import Grid, Overrides

FILE_NAME = "tuning.json"


def write_tuning(folder: Path, seed: str | None, rows: Sequence[TunedRow], objectives: Sequence[str]) -> None:
    """tuning.json: the points, every value, the choices, and which jobs are no part of any comparison.

    Those that an earlier command tried for one of these rows, with another grid, are none either. Its other rows stay:
    a row is known by its overrides, as its name depends on the rows beside it.
    """
    before = read_tuning(folder) or {}
    earlier, now = before.get("rows", []), [_identity(row.row.overrides) for row in rows]
    kept = [row for row in earlier if _identity(row["overrides"]) not in now]
    found = [*kept, *(row.content() for row in rows)]
    tried = [*before.get("left_out", ()), *(point["job"] for row in [*earlier, *found] for point in row["points"])]
    chosen = {point["job"] for row in found for point in row["points"] if point["values"] in choices_of(row)}
    content = {
        "schema_version": 1,
        "metric": objectives[0],
        "objectives": list(objectives),
        "seed": seed,
        "rows": found,
        "left_out": [job for job in dict.fromkeys(tried) if job not in chosen],
    }
    write_json(folder / FILE_NAME, content)


def _identity(overrides: Overrides) -> Overrides:
    """What makes a row another one: not the grid that is tried for it, and nothing that no result depends on."""
    return {option.lstrip("+"): value for option, value in overrides.items() if has_effect(option)}


def choices_of(row: Mapping[str, Any]) -> Grid:
    """The points chosen for a row of tuning.json."""
    return row.get("choices", [row["choice"]])


def read_tuning(folder: Path) -> dict[str, Any] | None:
    """The sweep's tuning.json; None where there is none."""
    return read_result(folder, FILE_NAME)


def is_trial(folder: Path, job: str, seed: object) -> bool:
    """Whether a job of a tuned sweep is one to choose by, as far as tuning.json tells: of its seed, and not chosen."""
    told = read_tuning(folder)
    if told is None:
        return True
    if told["seed"] is not None and str(seed) != told["seed"]:
        return False
    return job not in {point["job"] for row in told["rows"] for point in row["points"]} - set(told["left_out"])


def not_chosen(folder: Path) -> set[str]:
    """Names of the job folders of a sweep whose points were tried and not chosen."""
    return set((read_tuning(folder) or {}).get("left_out", ()))
