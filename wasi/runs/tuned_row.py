"""The outcome of the first stage of tuning for one row of a sweep."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasi.config.objectives import DEFAULT, Values, non_dominated, values_of
from wasi.runs.lock import is_locked
from wasi.runs.result import own_result
from wasi.runs.search import Point, Range
from wasi.runs.tuning import Grid, Plan, Row, shown, word


class Undecided(Exception):
    """Nothing can be chosen now, as another process is at work on a job on which the choice depends."""


@dataclass(frozen=True)
class TunedRow:
    """A row's first stage, with one entry per point in each list.

    Args:
        row: the row, with its points.
        jobs: names of the jobs' folders.
        values: the objectives' values; None if the run lacks one.
        statuses: the runs' statuses, as in result.json.
        objectives: the metrics by which to choose.
    """

    row: Row
    jobs: list[str]
    values: list[Values | None]
    statuses: list[str]
    objectives: Sequence[str] = (DEFAULT,)

    @property
    def choices(self) -> Grid:
        """The best point; of several objectives the Pareto front, the best in the first objective first."""
        return [self.row.grid[index] for index in self._chosen]

    @property
    def edges(self) -> list[list[str]]:
        """Per choice, the options whose value lies at the edge of what was tried.

        On a grid that is the least or largest number among points that agree with the choice in all other options.
        """
        return [[key for key in point if self._is_end(point, key)] for point in self.choices]

    @property
    def _chosen(self) -> list[int]:
        return non_dominated(self.values, self.objectives)

    def _is_end(self, point: Point, key: str) -> bool:
        value, tried = point[key], self._tried(point, key)
        if isinstance(tried, Range):
            low, high = tried.ends()
            return tried.is_wide and not low < value < high
        return value in _ends(tried)

    def _tried(self, chosen: Point, key: str) -> Range | list[Any]:
        """Return what the value of `key` was chosen from: a search's range or list, or values of the grid.

        The latter are those of points that agree with `chosen` in all other options.
        """
        if self.row.space is not None:
            return self.row.space.tried(key, chosen) or []
        rest = {k: v for k, v in chosen.items() if k != key}
        return [point[key] for point in self.row.grid if {k: v for k, v in point.items() if k != key} == rest]

    def lines(self) -> list[str]:
        """Return the lines about this row for the terminal and the report."""
        name = self.row.name
        if not self.choices:
            without = self.statuses.count("completed")
            lack = f"no completed point has {' and '.join(self.objectives)}" if without else "no point was completed"
            return [f"tuning {name}: {lack}, its seeds are not run"]
        front = "on the Pareto front " if len(self.objectives) > 1 else ""
        lines = [
            f"tuning {name}: {front}{shown(self.row.grid[index])} of {len(self.row.grid)} points, {self._values(index)}"
            for index in self._chosen
        ]
        warnings = [
            f"WARNING: tuning {name}: {key}={word(point[key])} lies on the EDGE of its grid "
            f"({_listed(self._tried(point, key))}): the best value may lie outside, widen the grid"
            for point, keys in zip(self.choices, self.edges, strict=True)
            for key in keys
        ]
        return lines + list(dict.fromkeys(warnings))

    def _values(self, index: int) -> str:
        pairs = zip(self.objectives, self.values[index] or (), strict=True)
        return ", ".join(f"{name} {value:.4f}" for name, value in pairs)

    def content(self) -> dict[str, Any]:
        """Return the row's entry in tuning.json."""
        points = [
            {"values": point, "job": job, "status": status} | dict(zip(self.objectives, values or (), strict=False))
            for point, job, status, values in zip(self.row.grid, self.jobs, self.statuses, self.values, strict=True)
        ]
        return {
            "row": self.row.name,
            "overrides": self.row.overrides,
            "objectives": list(self.objectives),
            "points": points,
            "choices": self.choices,
            "edges": self.edges,
            "told": self.lines(),
        }


def tuned(plan: Plan, returns: Sequence[Any], objectives: Sequence[str]) -> list[TunedRow]:
    """Return the first stage of every row that is tuned; `returns` has Hydra's JobReturn of each job in order."""
    jobs = iter(returns)
    return [tuned_row(row, [next(jobs) for _ in row.grid], objectives) for row in plan.rows if row.is_tuned]


def tuned_row(row: Row, returns: Sequence[Any], objectives: Sequence[str]) -> TunedRow:
    """Return the first stage of one row; `returns` has Hydra's JobReturn at each of its points.

    Raises:
        Undecided: another process is at work at one of the points.
    """
    folders = [folder_of(job) for job in returns]
    if taken := next(filter(is_locked, folders), None):  # before reading, in case one ends meanwhile
        raise Undecided(f"tuning {row.name}: another process is at work in {taken}; run this again when it has ended")
    results = [own_result(folder) or {} for folder in folders]
    values = [found_values(result, objectives) for result in results]
    statuses = [str(result.get("status", "no result")) for result in results]
    return TunedRow(row, [folder.name for folder in folders], values, statuses, objectives)


def folder_of(job: Any) -> Path:
    """Return the job's folder; `job` is Hydra's JobReturn."""
    return Path(job.hydra_cfg.hydra.runtime.output_dir)


def found_values(result: dict, objectives: Sequence[str]) -> Values | None:
    """Return the objectives of a completed run; None if it is not completed, or as `values_of` does."""
    return values_of(result, objectives) if result.get("status") == "completed" else None


def _listed(tried: Range | list[Any]) -> str:
    return str(tried) if isinstance(tried, Range) else ", ".join(map(word, tried))


def _ends(values: list[Any]) -> tuple:
    """Return the least and the largest of at least two numbers; empty if not all values are finite numbers."""
    ordered = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    return (min(values), max(values)) if ordered and len(values) > 1 else ()
