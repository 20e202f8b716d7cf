"""What a search with Optuna may try for one row of a sweep, and how a trial is asked for it."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig

from wasi.config.files import plain
from wasi.errors import UserError

_LR = "optimizer.lr"
_NEAR = 0.05  # of a range, on its own scale: within that of an end a choice lies on its edge
_DIGITS = 3

Point = dict[str, Any]  # option -> value
Axes = Mapping[str, "Range | list[Any]"]


class Trial(Protocol):
    """Optuna's, as far as it is used."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, step: int = 1) -> int: ...

    def suggest_categorical(self, name: str, choices: list) -> Any: ...


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included, on a logarithmic scale by `log`; whole ones by `step`."""

    low: float
    high: float
    log: bool = False
    step: int | None = None

    @property
    def is_wide(self) -> bool:
        """Whether there is more than one number in it."""
        return self.low < self.high

    def suggest(self, name: str, trial: Trial) -> float:
        """With three significant digits, which are enough to tell rates apart and can be typed."""
        if self.step:
            return trial.suggest_int(name, int(self.low), int(self.high), step=self.step)
        return shortened(trial.suggest_float(name, self.low, self.high, log=self.log))

    def ends(self) -> tuple[float, float]:
        """Numbers at or beyond which a choice lies on the edge."""
        if self.step:
            return self.low, self.high
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        low, high = low + _NEAR * (high - low), high - _NEAR * (high - low)
        return (math.exp(low), math.exp(high)) if self.log else (low, high)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Space:
    """Options that are searched.

    axes: option -> its range, or its values; rates: per optimizer of `axes["optimizer"]` the range of its learning
    rate, where they have ranges of their own.
    """

    axes: Axes = field(default_factory=dict)
    rates: Mapping[str, Range] = field(default_factory=dict)

    @property
    def is_wide(self) -> bool:
        """Whether there is more than one point in it."""
        axes = [*self.axes.values(), *self.rates.values()]
        return any(axis.is_wide if isinstance(axis, Range) else len(axis) > 1 for axis in axes)

    def only(self) -> Point:
        """The point of a space that is not wide."""
        point = {key: axis.low if isinstance(axis, Range) else axis[0] for key, axis in self.axes.items()}
        rate = self.rates.get(str(point.get("optimizer")))
        return point if rate is None else {**point, _LR: rate.low}

    def suggest(self, trial: Trial) -> Point:
        """The trial's point; a learning rate of one optimizer alone is a parameter of its own, `optimizer.lr@NAME`."""
        point = {
            key: axis.suggest(key, trial) if isinstance(axis, Range) else trial.suggest_categorical(key, axis)
            for key, axis in self.axes.items()
        }
        optimizer = str(point.get("optimizer"))
        if optimizer in self.rates:
            point[_LR] = self.rates[optimizer].suggest(f"{_LR}@{optimizer}", trial)
        return point

    def tried(self, key: str, point: Point) -> Range | list[Any] | None:
        """Among what the value of `key` was chosen, at a point."""
        of_optimizer = self.rates.get(str(point.get("optimizer"))) if key == _LR else None
        return of_optimizer or self.axes.get(key)

    def digest(self) -> str:
        """Equal for spaces that Optuna can search as one: ranges may be widened, choices stay."""
        text = {key: None if isinstance(axis, Range) else axis for key, axis in self.axes.items()}
        return hashlib.sha256(json.dumps(text, sort_keys=True, default=str).encode()).hexdigest()[:6]


def point_of(params: Mapping[str, Any]) -> Point:
    """Of a trial's parameters.

    >>> point_of({"optimizer": "sgd", "optimizer.lr@sgd": 0.012345, "method.lora_rank": 4})
    {'optimizer': 'sgd', 'optimizer.lr': 0.0123, 'method.lora_rank': 4}
    """
    return {key.partition("@")[0]: shortened(value) for key, value in params.items()}


def shortened(value: Any) -> Any:
    """A fraction with three significant digits; anything else as it is."""
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def space_of(tune: DictConfig, overrides: Mapping[str, str], searched: Axes) -> Space:
    """What `tune` and the command line's own ranges leave to search, beside what a job's `overrides` decide.

    A learning rate is searched between the least and the largest of `tune.lr`, on a logarithmic scale; any other
    option among the values of `tune.options`.

    Args:
        searched: ranges and choices of the command line, which win over `tune`.
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
    """Whether it is `interval(…)`, `range(…)` or `choice(…)`; values with commas between are rows of the sweep."""
    value = override.value()
    return isinstance(value, (IntervalSweep, RangeSweep)) or (isinstance(value, ChoiceSweep) and not value.simple_form)


def searched_options(overrides: Iterable[Override]) -> Axes:
    """What the command line asks a search to try, by option.

    Raises:
        UserError: a range without width, or one that cannot be searched as asked.
    """
    return {override.get_key_element(): _axis(override) for override in overrides if is_searched(override)}


def _axis(override: Override) -> Range | list[Any]:
    value: Any = override.value()
    if override.is_choice_sweep():
        return [override._get_value_element_as_str(item) if not _plain(item) else item for item in value.list]
    log = "log" in value.tags
    if override.is_interval_sweep():
        found = Range(float(value.start), float(value.end), log)
    elif isinstance(value.start, int) and isinstance(value.step, int) and not log:
        steps = range(value.start, value.stop, value.step)  # its end is not included, as in Hydra
        found = Range(min(steps, default=0), max(steps, default=0), step=value.step)
    else:
        return list(value.range())
    if not found.low < found.high or (log and found.low <= 0):
        allowed = "interval(LOW, HIGH) with LOW below HIGH, and LOW above 0 under tag(log, …)"
        raise UserError(override.get_key_element(), str(override.input_line).partition("=")[2], allowed)
    return found


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
