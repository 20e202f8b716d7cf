"""tuning.json: what a tuned sweep has tried and chosen, beside its jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasi import file_names
from wasi.runs.result import read_json, write_json
from wasi.runs.search import Point
from wasi.runs.tuned_row import TunedRow
from wasi.runs.tuning import Overrides, identity

_OF_A_ROW = {"row", "objectives", "points", "choices", "edges", "told"}  # keys that readers need


@dataclass(frozen=True)
class Choice:
    """A point at which a row of a sweep runs all seeds, with the folders of these jobs as far as they are known."""

    overrides: Overrides
    point: Point
    jobs: list[str]


def write_tuning(
    folder: Path,
    seed: str | None,
    rows: Sequence[TunedRow],
    objectives: Sequence[str],
    choices: Sequence[Choice] = (),
) -> None:
    """Write tuning.json: the points, every value, the choices, and which jobs to leave out of comparisons.

    What an earlier command chose for one of these rows is chosen no longer, and the jobs at that point are left out,
    for all seeds, until the point is chosen again. Other rows of an existing file are kept. Rows are matched by their
    overrides, as the name of a row depends on the other rows.

    Args:
        seed: the seed of the first stage.
        choices: the points at which all seeds are run, also those of rows that were not tuned.
    """
    before = read_tuning(folder) or {}
    asked = [*(row.row.overrides for row in rows), *(choice.overrides for choice in choices)]
    earlier, now = before.get("rows", []), [identity(overrides) for overrides in asked]
    kept = [row for row in earlier if identity(row["overrides"]) not in now]
    found = [*kept, *(row.content() for row in rows)]
    second_stage = _second_stage(before.get("second_stage", []), now, choices)
    tried = [*before.get("left_out", ()), *(point["job"] for row in [*earlier, *found] for point in row["points"])]
    tried += [job for stage in second_stage for job in stage["jobs"]]
    chosen = {point["job"] for row in found for point in row["points"] if point["values"] in row["choices"]}
    chosen |= {job for stage in second_stage if stage["is_chosen"] for job in stage["jobs"]}
    content = {
        "schema_version": 1,
        "objectives": list(objectives),
        "seed": seed,
        "rows": found,
        "second_stage": second_stage,
        "left_out": [job for job in dict.fromkeys(tried) if job not in chosen],
    }
    write_json(folder / file_names.TUNING, content)


def _second_stage(
    earlier: Sequence[Mapping[str, Any]], now: Sequence[Overrides], choices: Sequence[Choice]
) -> list[dict[str, Any]]:
    """Return every choice ever made, with all jobs run at it; of rows in `now`, only `choices` are still chosen.

    A choice that is made again keeps its earlier jobs: they are other seeds of the same row.
    """
    found = [{**old, "is_chosen": old["is_chosen"] and identity(old["overrides"]) not in now} for old in earlier]
    for choice in choices:
        same = (identity(choice.overrides), choice.point)
        known = next((old for old in found if (identity(old["overrides"]), old["values"]) == same), None)
        if known is None:
            found.append(known := {"overrides": choice.overrides, "values": choice.point, "jobs": []})
        known |= {"jobs": list(dict.fromkeys([*known["jobs"], *choice.jobs])), "is_chosen": True}
    return found


def read_tuning(folder: Path) -> dict[str, Any] | None:
    """Return the content of the sweep's tuning.json; None if there is none that `write_tuning` has written."""
    found = read_json(folder / file_names.TUNING) or {}
    is_whole = "seed" in found and all(isinstance(found.get(key), list) for key in ("rows", "left_out"))
    return found if is_whole and all(isinstance(r, dict) and r.keys() >= _OF_A_ROW for r in found["rows"]) else None


def is_trial(folder: Path, job: str, seed: object) -> bool:
    """Return whether a job of a tuned sweep is a trial: it has the first stage's seed and was not chosen so far."""
    tuning = read_tuning(folder)
    if tuning is None:
        return True
    if tuning["seed"] is not None and str(seed) != tuning["seed"]:
        return False
    return job not in {point["job"] for row in tuning["rows"] for point in row["points"]} - set(tuning["left_out"])


def not_chosen(folder: Path) -> set[str]:
    """Return the names of a sweep's job folders whose points were tried and not chosen, or are chosen no longer."""
    return set((read_tuning(folder) or {}).get("left_out", ()))
