"""`sweep.fail_fast=N`: a sweep stops once N of its jobs have failed for the same reason."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from omegaconf import DictConfig

from wasi.atomic import atomic_write_text
from wasi.config.validate import integer_from
from wasi.errors import UserError
from wasi.runs.result import BENCH_FILE_NAME, FILE_NAME, read_result
from wasi.runs.tuning import is_tuned_sweep

OPTION = "sweep.fail_fast"
_PLACE = "hydra.callbacks.sweep.fail_fast"  # `sweep` itself is the sweep's name
_NAMES = (FILE_NAME, BENCH_FILE_NAME)
_BEFORE = "fail_fast.json"  # in the sweep's folder: the results that there were before the running command
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


def note_results_before(folder: Path) -> None:
    """Keep what results the sweep's folder has as a command begins; failures among them are not the command's.

    By their content, as neither the machine's clock nor a file's number in another machine's file system says which
    are new. A job that fails again took another time to do so.
    """
    content = {name: _digest(result) for name, result in _results(folder)}
    atomic_write_text(folder / _BEFORE, json.dumps(content) + "\n")


def enough_failures(hydra_cfg: HydraConf | DictConfig) -> tuple[int, str] | None:
    """How many jobs of the running command have failed for one reason, and for which; None while they are fewer than N.

    Read from the sweep's folder, so that jobs in other processes and on other machines count. A rate that diverges
    while rates are tuned is no failure.
    """
    limit = (hydra_cfg.callbacks.get("sweep") or {}).get("fail_fast")
    if limit is None:
        return None
    folder = Path(hydra_cfg.sweep.dir)
    before = read_result(folder, _BEFORE) or {}
    counted = ("failed", "invalid") if is_tuned_sweep(hydra_cfg) else ("failed", "invalid", "diverged")
    failed = [(name, result) for name, result in _results(folder) if result.get("status") in counted]
    reasons = Counter(reason_of(result) for name, result in failed if before.get(name) != _digest(result))
    ((reason, count),) = reasons.most_common(1) or [("", 0)]
    return (count, reason) if count >= limit else None


def _results(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those of the sweep's jobs, by their file's name in the sweep's folder."""
    for path in sorted(path for name in _NAMES for path in folder.glob(f"*/{name}")):
        if (result := read_result(path.parent, path.name)) is not None:
            yield str(path.relative_to(folder)), result


def _digest(result: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()
