"""`sweep.fail_fast=N`: a sweep stops once N of its jobs have failed for the same reason."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from hydra.conf import HydraConf
from omegaconf import DictConfig

from wasi import file_names
from wasi.config.validate import integer_from
from wasi.errors import UserError
from wasi.runs.result import read_json, versions, write_json
from wasi.runs.tuning import is_tuned_sweep

OPTION = "sweep.fail_fast"
_PLACE = "hydra.callbacks.sweep.fail_fast"  # `sweep` is a string, the sweep's name, and cannot have options inside
_NUMBER = re.compile(r"\d+(\.\d+)?")


def spelled_out(words: Iterable[str]) -> list[str]:
    """Return a command line with `sweep.fail_fast` replaced by its place in Hydra's configuration.

    >>> spelled_out(["-m", "sweep=a", "sweep.fail_fast=2"])
    ['-m', 'sweep=a', 'hydra.callbacks.sweep.fail_fast=2']
    """
    return [f"{_PLACE}={word.removeprefix(f'{OPTION}=')}" if word.startswith(f"{OPTION}=") else word for word in words]


def check_fail_fast(value: object, in_sweep: bool) -> None:
    """Raise `UserError` for a value that is not a number of failures, and for any value outside a sweep."""
    if value is None:
        return
    if not integer_from(1)(value):
        raise UserError(OPTION, value, "a whole number from 1 up, or null")
    if not in_sweep:
        raise UserError(OPTION, value, "for a sweep (-m) only")


def reason_of(result: dict) -> str:
    """Return what failures of one kind have in common: their error without its numbers.

    >>> reason_of({"status": "failed", "error": "out of memory: RuntimeError: you tried to allocate 37 bytes"})
    'out of memory'
    >>> reason_of({"status": "failed", "error": "ValueError: 3 rows of 5.5"})
    'ValueError: # rows of #'
    """
    error = str(result.get("error"))
    if error.startswith("out of memory"):
        return "out of memory"
    return "diverged" if result.get("status") == "diverged" else _NUMBER.sub("#", error)


def note_results_before(hydra_cfg: HydraConf | DictConfig) -> None:
    """Record which results the sweep's folder has as a command begins; failures among them are not counted as its own.

    Jobs on other machines read the file, too. Nothing is written without a limit of failures.
    """
    folder = Path(hydra_cfg.sweep.dir)
    if _limit(hydra_cfg) is not None:
        write_json(folder / file_names.FAIL_FAST, versions(folder))


def enough_failures(hydra_cfg: HydraConf | DictConfig) -> tuple[int, str] | None:
    """Return how many jobs of this command have failed for one reason, and the reason; None while fewer than the limit.

    Failures are counted in the sweep's folder, so those in other processes and on other machines are included. A job
    that diverges in a tuned sweep is no failure.
    """
    limit = _limit(hydra_cfg)
    if limit is None:
        return None
    folder = Path(hydra_cfg.sweep.dir)
    before = read_json(folder / file_names.FAIL_FAST) or {}
    counted = ("failed", "invalid") if is_tuned_sweep(hydra_cfg) else ("failed", "invalid", "diverged")
    now = {name: version for name, version in versions(folder).items() if before.get(name) != version}
    results = (read_json(folder / name) or {} for name in now)
    reasons = Counter(reason_of(result) for result in results if result.get("status") in counted)
    ((reason, count),) = reasons.most_common(1) or [("", 0)]
    return (count, reason) if count >= limit else None


def _limit(hydra_cfg: HydraConf | DictConfig) -> int | None:
    return (hydra_cfg.callbacks.get("sweep") or {}).get("fail_fast")
