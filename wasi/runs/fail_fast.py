"""`sweep.fail_fast=N`: a sweep stops once N of its jobs have failed for the same reason."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from hydra.conf import HydraConf
from omegaconf import DictConfig

from wasi.config.validate import integer_from
from wasi.errors import UserError
from wasi.runs.result import BENCH_FILE_NAME, FILE_NAME, read_result
from wasi.runs.tuning import is_tuned_sweep

OPTION = "sweep.fail_fast"
_PLACE = "hydra.callbacks.sweep.fail_fast"  # `sweep` itself is the sweep's name
_NAMES = (FILE_NAME, BENCH_FILE_NAME)
_BEGUN = "multirun.yaml"  # which Hydra's sweepers write before the first job
_NUMBER = re.compile(r"\d+(\.\d+)?")


def spelled_out(words: Iterable[str]) -> list[str]:
    """A command line with the option under the name that Hydra knows.

    >>> spelled_out(["-m", "sweep=a", "sweep.fail_fast=2"])
    ['-m', 'sweep=a', 'hydra.callbacks.sweep.fail_fast=2']
    """
    return [f"{_PLACE}={word.removeprefix(f'{OPTION}=')}" if word.startswith(f"{OPTION}=") else word for word in words]


def check_fail_fast(value: object, in_sweep: bool) -> None:
    """Raises UserError for what is no number of failures, and where there is no sweep to stop."""
    if value is None:
        return
    if not integer_from(1)(value):
        raise UserError(OPTION, value, "a whole number from 1 up, or null")
    if not in_sweep:
        raise UserError(OPTION, value, "for a sweep (-m) only")


def reason_of(result: dict) -> str:
    """What failures of one kind have in common: their error without its numbers.

    >>> reason_of({"status": "failed", "error": "out of memory: RuntimeError: you tried to allocate 37 bytes"})
    'out of memory'
    >>> reason_of({"status": "failed", "error": "ValueError: 3 rows of 5.5"})
    'ValueError: # rows of #'
    """
    error = str(result.get("error"))
    if error.startswith("out of memory"):
        return "out of memory"
    return "diverged" if result.get("status") == "diverged" else _NUMBER.sub("#", error)


def enough_failures(hydra_cfg: HydraConf | DictConfig) -> tuple[int, str] | None:
    """How many jobs of the running command have failed for one reason, and for which; None while they are fewer than N.

    Read from the sweep's folder, so that jobs in other processes and on other machines count. A rate that diverges
    while rates are tuned is no failure.
    """
    limit = (hydra_cfg.callbacks.get("sweep") or {}).get("fail_fast")
    if limit is None or not (folder := Path(hydra_cfg.sweep.dir)).joinpath(_BEGUN).exists():
        return None
    since = (folder / _BEGUN).stat().st_mtime_ns
    counted = ("failed", "invalid") if is_tuned_sweep(hydra_cfg) else ("failed", "invalid", "diverged")
    paths = [path for name in _NAMES for path in folder.glob(f"*/{name}") if path.stat().st_mtime_ns >= since]
    found = [read_result(path.parent, path.name) or {} for path in paths]
    reasons = Counter(reason_of(result) for result in found if result.get("status") in counted)
    ((reason, count),) = reasons.most_common(1) or [("", 0)]
    return (count, reason) if count >= limit else None
