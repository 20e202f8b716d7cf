"""`python -m wasi.status SWEEP [SWEEP ...] [--watch [SECONDS]]`: what a sweep has done, does and has left.

It only reads, so it can run while the sweep does, from another shell or on another machine with the same folder. That
a job's process has died can be seen only on the machine that it ran on.
"""

import argparse
import platform
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

from wasi.cli import run_cli
from wasi.errors import UserError
from wasi.runs.lock import is_at_work
from wasi.runs.plan import read_plan
from wasi.runs.result import FILE_NAME, read_result

_ORDER = ("completed", "running", "interrupted", "failed", "diverged", "died")
_EPOCH = re.compile(r"epoch (\d+)/(\d+):")
_TAIL = 4096  # bytes at the end of a log, in which the last epoch is looked for


@dataclass(frozen=True)
class Job:
    """One job's folder. seconds: of a completed one, its wall time; of a running one, the time since it began."""

    folder: Path
    status: str
    error: str | None
    seconds: float | None
    epochs: tuple[int, int] | None


def jobs(sweep: Path) -> list[Job]:
    """Every job below a folder that has begun.

    Raises UserError for a folder that does not exist, or has no job below it.
    """
    if not sweep.is_dir():
        raise UserError("SWEEP", sweep, "an existing folder")
    found = [_job(path.parent) for path in sorted(sweep.rglob(FILE_NAME))]
    if not any(found):
        raise UserError("SWEEP", sweep, f"a folder with a {FILE_NAME} somewhere below")
    return [job for job in found if job]


def _job(folder: Path) -> Job | None:
    result = read_result(folder)
    if result is None:
        return None
    status, provenance = result.get("status", "running"), result.get("provenance", {})
    seconds = provenance.get("wall_seconds")
    if status == "running":
        is_here = provenance.get("machine", {}).get("hostname") == platform.node()
        status = "died" if is_here and not is_at_work(folder) else "running"
        seconds = _since(provenance.get("start"))
    return Job(folder, status, result.get("error"), seconds, _epochs(folder) if status != "completed" else None)


def _since(start: str | None) -> float | None:
    if start is None:
        return None
    since = (datetime.now(timezone.utc) - datetime.fromisoformat(start)).total_seconds()
    return max(0.0, since)  # another machine's clock, or one that was set back


def _epochs(folder: Path) -> tuple[int, int] | None:
    """Epochs done and asked for, by the end of the job's log; None before the first is over."""
    try:
        with open(folder / "train.log", "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            told = _EPOCH.findall(file.read().decode(errors="replace"))
    except OSError:
        return None
    return (int(told[-1][0]), int(told[-1][1])) if told else None


def seconds_left(found: Sequence[Job], planned: int) -> float | None:
    """Until the last job ends, if those to come take as long as those that are completed, as many at a time as now.

    None where nothing is completed or nothing runs.
    """
    took = [job.seconds for job in found if job.status == "completed" and job.seconds]
    running = [job for job in found if job.status == "running"]
    if not took or not running:
        return None
    each = median(took)
    rest = sum(max(0.0, each - (job.seconds or 0.0)) for job in running)
    return (rest + each * _to_come(found, planned)) / len(running)


def _to_come(found: Sequence[Job], planned: int) -> int:
    """Jobs that have not begun, or stopped and are continued when the sweep is run again."""
    return max(0, planned - len(found)) + sum(job.status in ("interrupted", "died") for job in found)


def lines(sweep: Path) -> Iterator[str]:
    """What the terminal shows of a sweep."""
    found, planned = jobs(sweep), read_plan(sweep)
    counts = Counter(job.status for job in found)
    told = [f"{counts[status]} {status}" for status in _ORDER if counts[status]]
    if planned > len(found):
        told.append(f"at most {planned - len(found)} not begun")
    left = seconds_left(found, planned)
    if left is not None:
        told.append(f"about {_duration(left)} left")
    yield f"{sweep}: {', '.join(told)}"
    for job in found:
        if job.status != "completed":
            yield f"  {job.status:<11}  {job.folder.name}{_details(job)}"


def _details(job: Job) -> str:
    told = []
    if job.epochs:
        told.append(f"epoch {job.epochs[0]}/{job.epochs[1]}")
    if job.status == "running" and job.seconds is not None:
        told.append(f"since {_duration(job.seconds)}")
    if job.error:
        told.append(job.error)
    return f": {', '.join(told)}" if told else ""


def _duration(seconds: float) -> str:
    """
    >>> [_duration(s) for s in (12.4, 90, 7500)]
    ['12 s', '2 min', '2 h 5 min']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m wasi.status", description=__doc__.partition(":")[2].strip())
    parser.add_argument("sweeps", metavar="SWEEP", nargs="+", type=Path, help="a sweep's folder, multirun/NAME")
    parser.add_argument(
        "--watch", metavar="SECONDS", nargs="?", type=float, const=10.0, help="tell again every so often (10)"
    )
    options = parser.parse_args()
    if options.watch is not None and options.watch <= 0:
        raise UserError("--watch", options.watch, "a number of seconds above 0")
    while True:
        text = "\n".join(line for sweep in options.sweeps for line in lines(sweep))
        print(text if options.watch is None else f"\033[2J\033[H{text}", flush=True)
        if options.watch is None:
            return
        time.sleep(options.watch)


if __name__ == "__main__":
    run_cli(main)
