"""The space that a search with Optuna explores for one row of a sweep, and how a trial draws a point from it."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig

from wasi.config.files import plain
from wasi.errors import UserError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

_LR = "optimizer.lr"
_NEAR = 0.05  # share of a range, on its own scale, that counts as its edge at each end
_DIGITS = 3  # significant ones, of numbers that are drawn

Point = dict[str, Any]  # option -> value
# As text, because the sweepers in hydra_plugins import it: Hydra asks of each class in a plugin's module whether it is
# a plugin, and in Python 3.10 an alias `Mapping[...]` passes for a class.
Axes: TypeAlias = "Mapping[str, Range | list[Any]]"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Args:
        log: whether to search on a logarithmic scale.
        step: distance between integers; None for real numbers.
    """

    low: float
    high: float
    log: bool = False
    step: int | None = None

    @property
    def is_wide(self) -> bool:
        """Whether it has more than one number."""
        return self.low < self.high

    @property
    def kind(self) -> tuple[bool, int | None] | None:
        """Scale and step; None for real numbers on a logarithmic scale, so that existing studies keep their hash."""
        return None if self.log and self.step is None else (self.log, self.step)

    def suggest(self, name: str, trial: "Trial") -> float:
        """Draw a number from `trial`; a real one is `shortened`."""
        if self.step:
            return trial.suggest_int(name, int(self.low), int(self.high), step=self.step, log=self.log)
        return shortened(trial.suggest_float(name, self.low, self.high, log=self.log), self.low, self.high)

    def ends(self) -> tuple[float, float]:
        """Return the numbers at or beyond which a choice counts as lying on the edge of the range."""
        if self.step:
            return self.low, self.high
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        low, high = low + _NEAR * (high - low), high - _NEAR * (high - low)
        return (math.exp(low), math.exp(high)) if self.log else (low, high)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Space:
    """The options that are searched.

    Args:
        axes: option -> its range, or the list of its values.
        rates: optimizer -> range of its learning rate, if the optimizers of `axes["optimizer"]` have ranges of their
            own.
    """

    axes: Axes = field(default_factory=dict)
    rates: Mapping[str, Range] = field(default_factory=dict)

    @property
    def is_wide(self) -> bool:
        """Whether it has more than one point."""
        axes = [*self.axes.values(), *self.rates.values()]
        return any(axis.is_wide if isinstance(axis, Range) else len(axis) > 1 for axis in axes)

    def only(self) -> Point:
        """Return the single point of a space that is not wide."""
        point = {key: axis.low if isinstance(axis, Range) else axis[0] for key, axis in self.axes.items()}
        rate = self.rates.get(str(point.get("optimizer")))
        return point if rate is None else {**point, _LR: rate.low}

    def suggest(self, trial: "Trial") -> Point:
        """Draw a point from `trial`.

        If each optimizer has a range of learning rates of its own, Optuna's parameter for it is `optimizer.lr@NAME`.
        """
        point = {
            key: axis.suggest(key, trial) if isinstance(axis, Range) else trial.suggest_categorical(key, axis)
            for key, axis in self.axes.items()
        }
        optimizer = str(point.get("optimizer"))
        if optimizer in self.rates:
            point[_LR] = self.rates[optimizer].suggest(f"{_LR}@{optimizer}", trial)
        return point

    def is_drawn(self, trial: "FrozenTrial") -> bool:
        """Return whether a stored trial has a value of every option.

        Some are missing where its process ended between Optuna's `ask` and the last `suggest`.
        """
        point = point_of(trial)
        has_rate = str(point.get("optimizer")) not in self.rates or _LR in point
        return has_rate and self.axes.keys() <= point.keys()

    def tried(self, key: str, point: Point) -> Range | list[Any] | None:
        """Return the range or list from which the value of `key` at `point` was drawn; None if it was not searched."""
        of_optimizer = self.rates.get(str(point.get("optimizer"))) if key == _LR else None
        return of_optimizer or self.axes.get(key)

    def digest(self) -> str:
        """Return a hash that is equal for spaces that one Optuna study can search.

        A study allows the ends of ranges to change between trials, but not the options, lists of choices, or the scale
        and step of a range, so these are hashed.
        """
        text = {key: axis.kind if isinstance(axis, Range) else axis for key, axis in self.axes.items()}
        return hashlib.sha256(json.dumps(text, sort_keys=True, default=str).encode()).hexdigest()[:6]


def point_of(trial: "FrozenTrial") -> Point:
    """Return the point that `Space.suggest` drew from a trial that Optuna has stored."""
    return {key.partition("@")[0]: _drawn(value, trial.distributions[key]) for key, value in trial.params.items()}


def _drawn(value: Any, distribution: Any) -> Any:
    """Return a stored parameter as it was drawn: a real number from a range is `shortened`, a choice is not."""
    is_real = isinstance(value, float) and hasattr(distribution, "low")
    return shortened(value, distribution.low, distribution.high) if is_real else value


def shortened(value: float, low: float, high: float) -> float:
    """Round to three significant digits, enough to tell rates apart, unless that leads out of `low` to `high`.

    >>> shortened(0.0123456, 0.01, 0.1), shortened(0.0123456, 0.012345, 0.1)
    (0.0123, 0.0123456)
    """
    short = float(f"{value:.{_DIGITS}g}")
    return short if low <= short <= high else value


def space_of(tune: DictConfig, overrides: Mapping[str, str], searched: Axes) -> Space:
    """Return the space that `tune` and `searched` describe, without options that a job's `overrides` set.

    A learning rate is searched between the least and the largest of `tune.lr`, on a logarithmic scale; any other option
    among the values of `tune.options`.

    Args:
        searched: ranges and choices of the command line, which take precedence over `tune`.
    """
    options = plain(tune, resolve=True)
    asked: dict[str, list[Any] | None] = {"optimizer": options["optimizer"], **(options["options"] or {})}
    left = {key: values for key, values in asked.items() if key not in overrides and values}
    axes: dict[str, Range | list[Any]] = {**left, **searched}
    lr = None if _LR in overrides or _LR in searched else options["lr"]
    if isinstance(lr, dict):
        return Space(axes, {name: _between(values) for name, values in lr.items()})
    return Space({**axes, _LR: _between(lr)} if lr else axes)


def _between(values: list[float]) -> Range:
    return Range(min(values), max(values), log=True)


def is_searched(override: Override) -> bool:
    """Return whether it is `interval(…)`, `range(…)` or `choice(…)`; comma-separated values are rows of the sweep."""
    value = override.value()
    return isinstance(value, (IntervalSweep, RangeSweep)) or (isinstance(value, ChoiceSweep) and not value.simple_form)


def searched_options(overrides: Iterable[Override]) -> Axes:
    """Return the ranges and choices that the command line gives for a search, by option.

    Raises:
        UserError: a range has no width, or cannot be searched on a logarithmic scale.
    """
    return {override.get_key_element(): _axis(override) for override in overrides if is_searched(override)}


def _axis(override: Override) -> Range | list[Any]:
    value: Any = override.value()
    if override.is_choice_sweep():
        return [override._get_value_element_as_str(item) if not _plain(item) else item for item in value.list]
    log = "log" in value.tags
    if override.is_interval_sweep():  # whose ends are real numbers unless it is cast: int(interval(2,16))
        found = Range(value.start, value.end, log, step=1 if isinstance(value.start, int) else None)
    elif isinstance(value.start, int) and isinstance(value.step, int) and not log:
        steps = range(value.start, value.stop, value.step)  # the end is excluded, as in Hydra
        found = Range(min(steps, default=0), max(steps, default=0), step=abs(value.step))
    else:
        if values := list(value.range()):
            return values
        allowed = "range(FROM, TO, STEP) with at least one value"
        raise UserError(override.get_key_element(), str(override.input_line).partition("=")[2], allowed)
    if not found.low < found.high or (log and found.low <= 0):
        allowed = "interval(LOW, HIGH) with LOW below HIGH, and LOW above 0 under tag(log, …)"
        raise UserError(override.get_key_element(), str(override.input_line).partition("=")[2], allowed)
    return found


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
