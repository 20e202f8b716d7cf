"""Tuning in two stages: which jobs there are, what the first stage's decide, and how that is written down."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from wasi.errors import UserError
from wasi.runs.result import read_result, write_json

FILE_NAME = "tuning.json"
METRIC = "val/acc"
_LR = "optimizer.lr"

Grid = list[dict[str, Any]]  # points: option -> value
Overrides = dict[str, str]


@dataclass(frozen=True)
class Row:
    """One configuration to tune: the overrides of its jobs but for the seed, and the points tried.

    `name` tells it apart from the sweep's other rows.
    """

    name: str
    overrides: Overrides
    grid: Grid = field(default_factory=list)

    def words(self, point: dict[str, Any] | None = None, seed: str | None = None) -> list[str]:
        """A job's overrides."""
        chosen = {key: _word(value) for key, value in (point or {}).items()}
        seeds = {} if seed is None else {"seed": seed}
        return [f"{key}={value}" for key, value in {**self.overrides, **chosen, **seeds}.items()]

    @property
    def is_tuned(self) -> bool:
        return len(self.grid) > 1


@dataclass(frozen=True)
class Plan:
    """All rows of a sweep, and its seeds; `[None]` where it sweeps none."""

    rows: list[Row]
    seeds: list[str | None]

    @classmethod
    def of(cls, jobs: Sequence[Sequence[str]], grid: Callable[[Row], Grid]) -> "Plan":
        """
        Args:
            jobs: overrides of every job of the ordinary sweep; `grid`: the points of a row.
        """
        split = [dict(word.split("=", 1) for word in job) for job in jobs]
        seeds = list(dict.fromkeys(job.pop("seed", None) for job in split))
        rows = [dict(items) for items in dict.fromkeys(tuple(job.items()) for job in split)]
        named = [Row(_name(row, rows), row) for row in rows]
        return cls([replace(row, grid=grid(row)) for row in named], seeds)

    def first_stage(self) -> list[list[str]]:
        """Every point of every row that has several, with the first seed."""
        return [row.words(point, self.seeds[0]) for row in self.rows if row.is_tuned for point in row.grid]

    def second_stage(self, tuned_rows: Iterable["TunedRow"]) -> list[list[str]]:
        """Every seed at the chosen points; rows of which no point was completed are left out."""
        chosen = {id(tuned_row.row): tuned_row.choice for tuned_row in tuned_rows}
        points = ((row, chosen.get(id(row), row.grid[0] if row.grid else {})) for row in self.rows)
        return [row.words(point, seed) for row, point in points if point is not None for seed in self.seeds]


@dataclass(frozen=True)
class TunedRow:
    """A row's first stage: per point its folder and its accuracy, None where its run was not completed."""

    row: Row
    jobs: list[str]
    accuracies: list[float | None]
    statuses: list[str]

    @property
    def choice(self) -> dict[str, Any] | None:
        """The point of the best accuracy, the earlier of two equal ones; None where no run was completed."""
        known = [place for place, accuracy in enumerate(self.accuracies) if accuracy is not None]
        return self.row.grid[max(known, key=lambda place: self.accuracies[place])] if known else None

    @property
    def is_chosen(self) -> list[bool]:
        return [point == self.choice for point in self.row.grid]

    @property
    def on_edge(self) -> list[str]:
        """Options whose chosen number is the least or the largest tried beside the other choices made."""
        return [key for key in self.choice or {} if self.choice[key] in _ends(self._tried(key))]

    def _tried(self, key: str) -> list[Any]:
        """Values of `key` at points that agree with the choice in all else."""
        rest = {k: v for k, v in self.choice.items() if k != key}
        return [point[key] for point in self.row.grid if {k: v for k, v in point.items() if k != key} == rest]

    def told(self) -> list[str]:
        """Lines for the terminal and the report."""
        name = self.row.name
        if self.choice is None:
            return [f"tuning {name}: no point was completed, its seeds are not run"]
        lines = [f"tuning {name}: {_shown(self.choice)} of {len(self.row.grid)} points, {METRIC} {self._best:.4f}"]
        for key in self.on_edge:
            tried = ", ".join(map(_word, self._tried(key)))
            lines.append(
                f"WARNING: tuning {name}: {key}={_word(self.choice[key])} lies on the EDGE of its grid ({tried}): "
                "the best value may lie outside, widen the grid"
            )
        return lines

    @property
    def _best(self) -> float:
        return max(accuracy for accuracy in self.accuracies if accuracy is not None)

    def content(self) -> dict[str, Any]:
        points = [
            {"values": values, "job": job, "status": status} | ({} if accuracy is None else {METRIC: accuracy})
            for values, job, status, accuracy in zip(
                self.row.grid, self.jobs, self.statuses, self.accuracies, strict=True
            )
        ]
        head = {"row": self.row.name, "overrides": self.row.overrides, "points": points, "choice": self.choice}
        return {**head, "on_edge": self.on_edge, "told": self.told()}


def grid_of(tune: DictConfig, overrides: Overrides) -> Grid:
    """The points that `tune` asks for, but for options that the job's own `overrides` decide.

    `tune.lr` may be a list, or a mapping from optimizers (of `tune.optimizer`) to lists.
    """
    options = OmegaConf.to_container(tune, resolve=True)
    lr, optimizers = options["lr"], options["optimizer"] if "optimizer" not in overrides else None
    others = {key: values for key, values in (options["options"] or {}).items() if key not in overrides}
    points = []
    for optimizer in optimizers or [None]:
        rates = None if _LR in overrides else lr.get(optimizer) if isinstance(lr, dict) else lr
        axes = {"optimizer": [optimizer] if optimizer else None, _LR: rates, **others}
        axes = {key: values for key, values in axes.items() if values}
        points += [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return points


def tuned(plan: Plan, returns: Sequence[Any]) -> list[TunedRow]:
    """
    Args:
        returns: Hydra's JobReturn of every job of the first stage, in its order.
    """
    found, jobs = [], iter(returns)
    for row in plan.rows:
        if row.is_tuned:
            folders = [Path(next(jobs).hydra_cfg.hydra.runtime.output_dir) for _ in row.grid]
            results = [read_result(folder) or {} for folder in folders]
            accuracies = [_accuracy(result) for result in results]
            statuses = [str(result.get("status")) for result in results]
            found.append(TunedRow(row, [folder.name for folder in folders], accuracies, statuses))
    return found


def write_tuning(folder: Path, plan: Plan, rows: list[TunedRow]) -> None:
    """tuning.json: the grids, every accuracy, the choices, and which jobs are no part of any comparison."""
    jobs = [pair for row in rows for pair in zip(row.jobs, row.is_chosen, strict=True)]
    chosen = {job for job, is_chosen in jobs if is_chosen}
    content = {
        "schema_version": 1,
        "metric": METRIC,
        "seed": plan.seeds[0],
        "rows": [row.content() for row in rows],
        "left_out": list(dict.fromkeys(job for job, _ in jobs if job not in chosen)),
    }
    write_json(folder / FILE_NAME, content)


def check_tuning(hydra_cfg: DictConfig) -> None:
    """Refuse `tune.…` on a command line whose sweeper tunes nothing.

    Raises:
        UserError: names the option.
    """
    for override in hydra_cfg.overrides.task:
        key, _, value = override.lstrip("+").partition("=")
        if key.partition(".")[0] == "tune" and not is_tuned_sweep(hydra_cfg):
            raise UserError(key, value, "for a sweep with hydra/sweeper=tuned only")


def is_tuned_sweep(hydra_cfg: DictConfig) -> bool:
    in_sweep = hydra_cfg.mode is None or str(hydra_cfg.mode).endswith("MULTIRUN")
    return in_sweep and str(hydra_cfg.sweeper.get("_target_")).endswith(".TunedSweeper")


def read_tuning(folder: Path) -> dict[str, Any] | None:
    """The sweep's tuning.json; None where there is none."""
    return read_result(folder, FILE_NAME)


def not_chosen(folder: Path) -> set[str]:
    """Names of the job folders of a sweep whose points were tried and not chosen."""
    return set((read_tuning(folder) or {}).get("left_out", ()))


def _name(row: Overrides, rows: list[Overrides]) -> str:
    """The values in which rows differ: `wasi_0.8`, `wasi eps_0.8`."""
    differing = [key for key in row if any(other.get(key) != row[key] for other in rows)]
    return " ".join(row[key] for key in differing or row.keys() & {"recipe", "method"}) or "the only row"


def _accuracy(result: dict) -> float | None:
    return result.get("metrics", {}).get(METRIC) if result.get("status") == "completed" else None


def _ends(values: list[Any]) -> tuple:
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)]
    return (min(numbers), max(numbers)) if len(numbers) > 1 else ()


def _shown(point: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_word(value)}" for key, value in point.items())


def _word(value: Any) -> str:
    """A value as Hydra's command line reads it."""
    return value if isinstance(value, str) else json.dumps(value)
