"""Tuning in two stages: the rows of a tuned sweep, the points tried for each, and the jobs of both stages."""

import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from hydra.conf import HydraConf
from omegaconf import DictConfig

from wasi.config.files import plain
from wasi.config.overrides import option_and_value
from wasi.config.relevance import has_effect
from wasi.config.sweep_options import sweep_overrides
from wasi.errors import UserError
from wasi.runs.search import Axes, Point, Space

_LR = "optimizer.lr"

Grid = list[Point]
Overrides = dict[str, str]


@dataclass(frozen=True)
class Row:
    """One configuration to tune.

    Args:
        name: distinguishes it from the sweep's other rows.
        overrides: those of its jobs, without the seed.
        grid: the points to try.
        space: what a search draws its points from; None for a grid.
    """

    name: str
    overrides: Overrides
    grid: Grid = field(default_factory=list)
    space: Space | None = None

    def words(self, point: dict[str, Any] | None = None, seed: str | None = None) -> list[str]:
        """Return the overrides of a job at `point`, with `seed`, as arguments of a command line."""
        chosen = {key: word(value) for key, value in (point or {}).items()}
        seeds = {} if seed is None else {"seed": seed}
        return [f"{key}={value}" for key, value in {**self.overrides, **chosen, **seeds}.items()]

    def digest(self, seed: str | None) -> str:
        """Return a hash that is equal for what one Optuna study can search: this row, tried with one seed.

        The name does not tell that, as it depends on the other rows of a command.
        """
        searched = "" if self.space is None else self.space.digest()
        text = json.dumps([identity(self.overrides), seed, searched], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:6]

    @property
    def is_tuned(self) -> bool:
        """Whether there is more than one point to try."""
        return len(self.grid) > 1 or (self.space is not None and self.space.is_wide)


@dataclass(frozen=True)
class Plan:
    """All rows of a sweep, and its seeds; `[None]` if the seed is not swept."""

    rows: list[Row]
    seeds: list[str | None]

    @classmethod
    def of(cls, jobs: Sequence[Sequence[str]], asked: Callable[[Row], Row]) -> "Plan":
        """Return the plan for the jobs of an ordinary sweep.

        Args:
            jobs: the overrides of every job.
            asked: returns a row with the points to try added.
        """
        split = [dict(word.split("=", 1) for word in job) for job in jobs]
        seeds = list(dict.fromkeys(job.pop("seed", None) for job in split))
        rows = [dict(items) for items in dict.fromkeys(tuple(job.items()) for job in split)]
        named = [Row(_name(row, rows), row) for row in rows]
        return cls([asked(row) for row in named], seeds)

    def first_stage(self) -> list[list[str]]:
        """Return the jobs' overrides for every point of every tuned row, with the first seed."""
        return [row.words(point, self.seeds[0]) for row in self.rows if row.is_tuned for point in row.grid]

    def most_jobs(self, trials: int, objectives: int) -> int:
        """Return a bound for the number of jobs of both stages: with several objectives, any point may be chosen.

        Args:
            trials: points that a search tries for a row.
            objectives: their number.
        """
        most = 0
        for row in self.rows:
            tried = 1 if not row.is_tuned else len(row.grid) if row.space is None else trials
            most += tried + (tried if objectives > 1 else 1) * (len(self.seeds) - 1)
        return most

    def points(self, chosen: Mapping[str, Grid]) -> list[tuple[Row, Point]]:
        """Return the rows with the points at which all seeds are run: those chosen, by row name, or the row's only one.

        A tuned row for which nothing is chosen, because no point was completed or tried yet, is left out.
        """
        only = {row.name: row.grid[:1] or [{}] for row in self.rows if not row.is_tuned}
        return [(row, point) for row in self.rows for point in {**only, **chosen}.get(row.name, ())]

    def second_stage(self, chosen: Mapping[str, Grid]) -> list[list[str]]:
        """Return the jobs' overrides for every seed at the points of `points(chosen)`."""
        return [row.words(point, seed) for row, point in self.points(chosen) for seed in self.seeds]


def rates_asked(
    tune: Mapping[str, Any],
    overrides: Overrides,
    optimizer: str,
    known: Collection[str],
    searched: Axes = MappingProxyType({}),
) -> dict[str, list[float]] | list[float] | None:
    """Return `tune.lr` as far as it concerns one row.

    Of a mapping from optimizers to rates, that is the part for the optimizers that are tried, or the list for the row's
    own optimizer.

    Args:
        overrides: those of the row's jobs.
        optimizer: the choice of optimizer that they compose.
        known: all optimizers.
        searched: options that a search decides, with what it may choose.

    Raises:
        UserError: the mapping has a key that is no optimizer, or lacks an optimizer of the row, whose rate would not be
            tuned.
    """
    rates = tune["lr"]
    if not isinstance(rates, Mapping) or {_LR} & {*overrides, *searched}:
        return rates
    if not set(rates) <= set(known):
        raise UserError("tune.lr", rates, f"a list, or a mapping from optimizers, which are {', '.join(known)}")
    tried = searched.get("optimizer") or ("optimizer" not in overrides and tune["optimizer"])
    names = tried if isinstance(tried, list) else [optimizer]
    if (missing := next((name for name in names if name not in rates), None)) is not None:
        raise UserError("tune.lr", rates, f"a list, or a mapping that has optimizer={missing}, which this row takes")
    return {name: rates[name] for name in names} if isinstance(tried, list) else rates[optimizer]


def grid_of(tune: DictConfig, overrides: Overrides) -> Grid:
    """Return the points that `tune` asks for, without options that the job's own `overrides` set.

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


def identity(overrides: Overrides) -> Overrides:
    """Return the overrides by which a row is recognised: those that can change a result."""
    return {option.lstrip("+"): value for option, value in overrides.items() if has_effect(option)}


def check_tuning(hydra_cfg: DictConfig) -> None:
    """Raise `UserError` for `tune.…` if the sweeper does not tune, and for `interval(…)` if it does not search."""
    for key, value in map(option_and_value, hydra_cfg.overrides.task):
        if key.partition(".")[0] == "tune" and not is_tuned_sweep(hydra_cfg):
            raise UserError(key, value, "for a sweep with hydra/sweeper=tuned or optuna only")
    for override in sweep_overrides(hydra_cfg):
        if override.is_interval_sweep() and not str(hydra_cfg.sweeper["_target_"]).endswith(".OptunaSweeper"):
            key, _, value = str(override.input_line).partition("=")
            raise UserError(key, value, "values with commas, or hydra/sweeper=optuna for a search")


def is_tuned_sweep(hydra_cfg: HydraConf | DictConfig) -> bool:
    """Return whether this is a sweep with `hydra/sweeper=tuned` or `optuna`."""
    in_sweep = hydra_cfg.mode is None or str(hydra_cfg.mode).endswith("MULTIRUN")
    return in_sweep and str(hydra_cfg.sweeper.get("_target_")).endswith((".TunedSweeper", ".OptunaSweeper"))


def _name(row: Overrides, rows: list[Overrides]) -> str:
    """Join the values in which this row differs from the others: `wasi_0.8`, `wasi eps_0.8`."""
    differing = [key for key in row if any(other.get(key) != row[key] for other in rows)]
    named = differing or [key for key in row if key in ("recipe", "method")]
    return " ".join(row[key] for key in named) or "the only row"


def shown(point: dict[str, Any]) -> str:
    """Format a point as `option=value, …`."""
    return ", ".join(f"{key}={word(value)}" for key, value in point.items())


def word(value: Any) -> str:
    """Format a value as Hydra's command line reads it."""
    return value if isinstance(value, str) else json.dumps(value)
