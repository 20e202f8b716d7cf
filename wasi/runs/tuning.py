"""Tuning in two stages: which jobs there are, what the first stage's decide, and how that is written down."""

import itertools
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from omegaconf import DictConfig

from wasi.config.files import plain
from wasi.config.objectives import DEFAULT, Values, best_places, values_of
from wasi.config.relevance import has_effect
from wasi.config.swept import sweep_overrides
from wasi.errors import UserError
from wasi.runs.lock import is_at_work
from wasi.runs.result import read_result, write_json
from wasi.runs.search import Point, Range, Space

FILE_NAME = "tuning.json"
_LR = "optimizer.lr"

Grid = list[Point]
Overrides = dict[str, str]


class Undecided(Exception):
    """Nothing can be chosen now, as another process is at work on what the choice depends on."""


@dataclass(frozen=True)
class Row:
    """One configuration to tune: the overrides of its jobs but for the seed, and the points tried.

    `name` tells it apart from the sweep's other rows. `space`: what a search draws its points from, None for a grid.
    """

    name: str
    overrides: Overrides
    grid: Grid = field(default_factory=list)
    space: Space | None = None

    def words(self, point: dict[str, Any] | None = None, seed: str | None = None) -> list[str]:
        """A job's overrides."""
        chosen = {key: _word(value) for key, value in (point or {}).items()}
        seeds = {} if seed is None else {"seed": seed}
        return [f"{key}={value}" for key, value in {**self.overrides, **chosen, **seeds}.items()]

    @property
    def is_tuned(self) -> bool:
        return len(self.grid) > 1 or (self.space is not None and self.space.is_wide)


@dataclass(frozen=True)
class Plan:
    """All rows of a sweep, and its seeds; `[None]` where it sweeps none."""

    rows: list[Row]
    seeds: list[str | None]

    @classmethod
    def of(cls, jobs: Sequence[Sequence[str]], asked: Callable[[Row], Row]) -> "Plan":
        """Rows and seeds of an ordinary sweep's jobs.

        Args:
            jobs: overrides of every job of the ordinary sweep; `asked`: a row with what is to be tried.
        """
        split = [dict(word.split("=", 1) for word in job) for job in jobs]
        seeds = list(dict.fromkeys(job.pop("seed", None) for job in split))
        rows = [dict(items) for items in dict.fromkeys(tuple(job.items()) for job in split)]
        named = [Row(_name(row, rows), row) for row in rows]
        return cls([asked(row) for row in named], seeds)

    def first_stage(self) -> list[list[str]]:
        """Every point of every row that has several, with the first seed."""
        return [row.words(point, self.seeds[0]) for row in self.rows if row.is_tuned for point in row.grid]

    def second_stage(self, tuned_rows: Iterable["TunedRow"]) -> list[list[str]]:
        """Every seed at the chosen points; rows of which no point was completed are left out."""
        chosen = {tuned_row.row.name: tuned_row.choices for tuned_row in tuned_rows}
        points = ((row, point) for row in self.rows for point in chosen.get(row.name, row.grid[:1] or [{}]))
        return [row.words(point, seed) for row, point in points for seed in self.seeds]


@dataclass(frozen=True)
class TunedRow:
    """A row's first stage: per point its folder, its objectives' values (None where its run lacks one), its status."""

    row: Row
    jobs: list[str]
    values: list[Values | None]
    statuses: list[str]
    objectives: Sequence[str] = (DEFAULT,)

    @property
    def choices(self) -> Grid:
        """The best point; of several objectives the Pareto front, the best in the first of them first."""
        return [self.row.grid[place] for place in self._chosen]

    @property
    def choice(self) -> dict[str, Any] | None:
        """The first of them; None where no run was completed."""
        return next(iter(self.choices), None)

    @property
    def on_edge(self) -> list[str]:
        """Options whose chosen number is the least or the largest tried beside the other choices made."""
        return [key for key in self._point if self._is_end(key)]

    @property
    def _point(self) -> Point:
        """`choice`, or no option at all."""
        return self.choice or {}

    @property
    def _chosen(self) -> list[int]:
        return best_places(self.values, self.objectives)

    def _is_end(self, key: str) -> bool:
        value, tried = self._point[key], self._tried(key)
        if isinstance(tried, Range):
            low, high = tried.ends()
            return not low < value < high
        return value in _ends(tried)

    def _tried(self, key: str) -> Range | list[Any]:
        """What a search had to choose from; of a grid, values of `key` at points that agree with the choice in all
        else."""
        if self.row.space is not None:
            return self.row.space.tried(key, self._point) or []
        rest = {k: v for k, v in self._point.items() if k != key}
        return [point[key] for point in self.row.grid if {k: v for k, v in point.items() if k != key} == rest]

    def told(self) -> list[str]:
        """Lines for the terminal and the report."""
        name = self.row.name
        if self.choice is None:
            return [f"tuning {name}: no point was completed, its seeds are not run"]
        front = "on the Pareto front " if len(self.objectives) > 1 else ""
        lines = [
            f"tuning {name}: {front}{shown(self.row.grid[place])} of {len(self.row.grid)} points, {self._told(place)}"
            for place in self._chosen
        ]
        for key in self.on_edge:
            tried = self._tried(key)
            grid = str(tried) if isinstance(tried, Range) else ", ".join(map(_word, tried))
            lines.append(
                f"WARNING: tuning {name}: {key}={_word(self._point[key])} lies on the EDGE of its grid ({grid}): "
                "the best value may lie outside, widen the grid"
            )
        return lines

    def _told(self, place: int) -> str:
        pairs = zip(self.objectives, self.values[place] or (), strict=True)
        return ", ".join(f"{name} {value:.4f}" for name, value in pairs)

    def content(self) -> dict[str, Any]:
        points = [
            {"values": point, "job": job, "status": status} | dict(zip(self.objectives, values or (), strict=False))
            for point, job, status, values in zip(self.row.grid, self.jobs, self.statuses, self.values, strict=True)
        ]
        head = {"row": self.row.name, "overrides": self.row.overrides, "objectives": list(self.objectives)}
        chosen = {"choice": self.choice, "choices": self.choices, "on_edge": self.on_edge, "told": self.told()}
        return {**head, "points": points, **chosen}


def rates_asked(
    tune: Mapping[str, Any], overrides: Overrides, optimizer: str, searched: Collection[str] = ()
) -> dict[str, list[float]] | list[float] | None:
    """`tune.lr` for one row: of a mapping from optimizers to rates, those of the row's own where no other is tried.

    Args:
        overrides: of the row's jobs; optimizer: the choice that they compose; searched: options that a search decides.

    Raises:
        UserError: the mapping lacks the row's optimizer, whose rate would not be tuned.
    """
    rates, others = tune["lr"], tune["optimizer"] is not None and "optimizer" not in overrides
    if not isinstance(rates, Mapping) or others or "optimizer" in searched or {_LR} & {*overrides, *searched}:
        return rates
    if optimizer not in rates:
        raise UserError("tune.lr", rates, f"a list, or a mapping that has optimizer={optimizer}, which this row takes")
    return rates[optimizer]


def grid_of(tune: DictConfig, overrides: Overrides) -> Grid:
    """The points that `tune` asks for, but for options that the job's own `overrides` decide.

    `tune.lr` may be a list or, where optimizers are tried, a mapping from them to lists (see `rates_asked`).
    """
    options = plain(tune, resolve=True)
    lr, optimizers = options["lr"], options["optimizer"] if "optimizer" not in overrides else None
    others = {key: values for key, values in (options["options"] or {}).items() if key not in overrides}
    points = []
    for optimizer in optimizers or [None]:
        rates = None if _LR in overrides else lr.get(optimizer) if isinstance(lr, dict) else lr
        axes = {"optimizer": [optimizer] if optimizer else None, _LR: rates, **others}
        axes = {key: values for key, values in axes.items() if values}
        points += [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return points


def tuned(plan: Plan, returns: Sequence[Any], objectives: Sequence[str]) -> list[TunedRow]:
    """The first stage of every row that has one, by Hydra's JobReturn of each of its jobs, in their order."""
    jobs = iter(returns)
    return [tuned_row(row, [next(jobs) for _ in row.grid], objectives) for row in plan.rows if row.is_tuned]


def tuned_row(row: Row, returns: Sequence[Any], objectives: Sequence[str]) -> TunedRow:
    """The first stage of one row, by Hydra's JobReturn at each of its points.

    Raises:
        Undecided: another process is at work at one of the points.
    """
    folders = [folder_of(job) for job in returns]
    if taken := next(filter(is_at_work, folders), None):  # looked at first: what has ended since is in the results
        raise Undecided(f"tuning {row.name}: another process is at work in {taken}; run this again when it has ended")
    results = [read_result(folder) or {} for folder in folders]
    values = [found_values(result, objectives) for result in results]
    statuses = [str(result.get("status", "no result")) for result in results]
    return TunedRow(row, [folder.name for folder in folders], values, statuses, objectives)


def folder_of(job: Any) -> Path:
    return Path(job.hydra_cfg.hydra.runtime.output_dir)


def found_values(result: dict, objectives: Sequence[str]) -> Values | None:
    """The objectives of a completed run; None for another, and where one was not measured."""
    return values_of(result.get("metrics", {}), objectives) if result.get("status") == "completed" else None


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


def check_tuning(hydra_cfg: DictConfig) -> None:
    """Raises UserError for `tune.…` where the sweeper does not tune, for `interval(…)` where it does not search."""
    for override in hydra_cfg.overrides.task:
        key, _, value = override.lstrip("+").partition("=")
        if key.partition(".")[0] == "tune" and not is_tuned_sweep(hydra_cfg):
            raise UserError(key, value, "for a sweep with hydra/sweeper=tuned or optuna only")
    for override in sweep_overrides(hydra_cfg):
        if override.is_interval_sweep() and not str(hydra_cfg.sweeper["_target_"]).endswith(".OptunaSweeper"):
            key, _, value = str(override.input_line).partition("=")
            raise UserError(key, value, "values with commas, or hydra/sweeper=optuna for a search")


def is_tuned_sweep(hydra_cfg: HydraConf | DictConfig) -> bool:
    in_sweep = hydra_cfg.mode is None or str(hydra_cfg.mode).endswith("MULTIRUN")
    return in_sweep and str(hydra_cfg.sweeper.get("_target_")).endswith((".TunedSweeper", ".OptunaSweeper"))


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


def _name(row: Overrides, rows: list[Overrides]) -> str:
    """The values in which rows differ: `wasi_0.8`, `wasi eps_0.8`."""
    differing = [key for key in row if any(other.get(key) != row[key] for other in rows)]
    named = differing or [key for key in row if key in ("recipe", "method")]
    return " ".join(row[key] for key in named) or "the only row"


def _ends(values: list[Any]) -> tuple:
    """The least and the largest of at least two numbers; nothing for values that have no order, or not all one."""
    ordered = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    return (min(values), max(values)) if ordered and len(values) > 1 else ()


def shown(point: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_word(value)}" for key, value in point.items())


def _word(value: Any) -> str:
    """A value as Hydra's command line reads it."""
    return value if isinstance(value, str) else json.dumps(value)
