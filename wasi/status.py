"""`python -m wasi.status SWEEP [SWEEP ...] [--watch [SECONDS]]`: what a sweep has done, does and has left.

It only reads, so it can run while the sweep does, from another shell or on another machine with the same folder, and
for a sweep whose jobs are spread over machines. Whether a job's process has died is known only on the machine that it
ran on; for a job on another machine this shows the machine, and how long ago the job wrote anything.
"""

if __name__ == "__main__":  # before all other imports, which take a while
    from wasi.process_exit import quiet_while_importing

    quiet_while_importing()

import argparse
import platform
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from statistics import median
from typing import Any

from wasi import file_names
from wasi.errors import UserError, one_line
from wasi.runs.command import run_cli
from wasi.runs.ending import printable
from wasi.runs.folder import files_below, sweep_of
from wasi.runs.lock import is_locked
from wasi.runs.plan import not_begun, read_plan
from wasi.runs.result import read_json

_ORDER = ("completed", "running", "interrupted", "failed", "diverged", "invalid", "died")
_EPOCH = re.compile(r"(epoch|round) (\d+)/(\d+):")
_SILENT = 600.0  # seconds without a written line after which this is shown
_LONGEST_WATCH = 86_400.0  # seconds between two looks; `time.sleep` fails for those of many years
_CENTURY = 36_525 * 86_400.0  # seconds from which on a time is damage, and has no date that Python can tell
_TAIL = 4096  # bytes at the end of a log, in which the last epoch is looked for


@dataclass(frozen=True)
class Job:
    """One job's folder.

    Args:
        seconds: wall time of a completed job; for a running one the time since it began.
        progress: such as `epoch 3/50`.
        host: the machine, if the job runs on another one.
        silent: seconds since a running job wrote anything.
    """

    folder: Path
    status: str
    error: str | None
    seconds: float | None
    progress: str | None
    host: str | None = None
    silent: float = 0.0


def jobs(sweep: Path) -> list[Job]:
    """Return every job below a folder that has begun.

    Raises:
        UserError: the folder does not exist, or neither has a job below it nor a plan of jobs to come.
        OSError: a folder below it cannot be listed.
    """
    if not sweep.is_dir():
        raise UserError("SWEEP", sweep, "an existing folder")
    paths = sorted(path for name in file_names.RESULTS for path in files_below(sweep, name))
    found = [_job(path) for path in paths]
    if not any(found) and read_plan(sweep)[0] == 0:
        raise UserError("SWEEP", sweep, f"a folder with a {' or '.join(file_names.RESULTS)} somewhere below")
    return [job for job in found if job]


def _job(path: Path) -> Job | None:
    folder = path.parent
    result = read_json(path)
    if result is None or not _is_ours(result):
        return None
    status, provenance = result.get("status", "running"), result.get("provenance") or {}
    seconds, error = provenance.get("wall_seconds"), result.get("error")
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < _CENTURY:
        seconds = None
    if status == "completed":
        return Job(folder, status, error, seconds, None)
    if status != "running":
        return Job(folder, status, error, seconds, _progress(folder))
    host = provenance.get("machine", {}).get("hostname")
    host = None if host == platform.node() else host
    status = "died" if host is None and not is_locked(folder) else "running"
    return Job(folder, status, error, _since(provenance.get("start")), _progress(folder), host, _silent(folder))


def _is_ours(result: dict[str, Any]) -> bool:
    """Return whether a file with a result's name was written by this project and is not damaged."""
    if not isinstance(result.get("error"), (str, type(None))):
        return False
    provenance = result.get("provenance") or {}
    if not {"schema_version", "status"} & result.keys() or result.get("status", "running") not in _ORDER:
        return False
    return isinstance(provenance, dict) and isinstance(provenance.get("machine", {}), dict)


def _silent(folder: Path) -> float:
    """Return the seconds since the newest file of the folder was written, by this machine's clock."""
    written = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # a temporary file, which its writer has renamed meanwhile
            written += [path.stat().st_mtime] if path.is_file() else []
    return max(0.0, time.time() - max(written, default=time.time()))


def _since(start: str | None) -> float | None:
    """Return the seconds since a time in ISO format; None if it is not one."""
    try:
        since = (datetime.now(timezone.utc) - datetime.fromisoformat(start or "")).total_seconds()
    except (TypeError, ValueError):
        return None
    return max(0.0, since)  # another machine's clock, or one that was set back


def _progress(folder: Path) -> str | None:
    """Return the last epoch, or round of a benchmark, in a job's log, as `epoch 3/50`; None before the first is over.

    The log has the name that `hydra.job.name` gives it; logs of other processes beside it name no epoch.
    """
    try:
        logs = sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime, reverse=True)
        found = (epochs[-1] for log in logs if (epochs := _EPOCH.findall(_tail(log))))
        return next(("{} {}/{}".format(*last) for last in found), None)
    except OSError:
        return None


def _tail(log: Path) -> str:
    with open(log, "rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL))
        return file.read().decode(errors="replace")


def seconds_left(found: Sequence[Job], planned: int, free: int = 0) -> float | None:
    """Estimate the seconds until the last job ends; None if no job is completed, or none runs.

    It assumes that jobs to come take the median time of those completed, and that as many run at a time as now. More
    than a century is None, too.

    Args:
        free: jobs that can begin beside those that run.
    """
    took = [job.seconds for job in found if job.status == "completed" and job.seconds]
    running = [job for job in found if job.status == "running"]
    at_once = len(running) + free
    if not took or not at_once:
        return None
    each = median(took)
    rest = sum(max(0.0, each - (job.seconds or 0.0)) for job in running)
    left = (rest + each * _to_come(found, planned)) / at_once
    return left if left < _CENTURY else None


def _to_come(found: Sequence[Job], planned: int) -> int:
    """Return the number of jobs that have not begun, or that stopped and are continued when the sweep is run again."""
    return max(0, planned - len(found)) + sum(job.status in ("interrupted", "died") for job in found)


def of_plan(found: Sequence[Job], sweep: Path) -> list[Job]:
    """Return the jobs that the sweep's last command asks for; all, if its plan lacks their names."""
    _, planned = read_plan(sweep)
    return [job for job in found if not planned or job.folder.name in planned]


def lines(sweep: Path) -> Iterator[str]:
    """Yield the lines that the terminal shows about a sweep."""
    found = jobs(sweep)
    waiting, is_exact = not_begun(sweep, [job.folder.name for job in found])
    counts = Counter(job.status for job in found)
    lines = [f"{counts[status]} {status}" for status in _ORDER if counts[status]]
    if waiting:
        lines.append(f"{waiting} not begun" if is_exact else f"at most {waiting} not begun")
    asked = of_plan(found, sweep)
    left = seconds_left(asked, len(asked) + waiting)
    if left is not None:
        lines.append(f"about {duration(left)} left ({clock(left)})")
    yield f"{sweep}: {', '.join(lines)}"
    for job in found:
        if job.status != "completed":
            yield f"  {job.status:<11}  {job.folder.name}{_details(job)}"


def _details(job: Job) -> str:
    lines = []
    if job.progress:
        lines.append(job.progress)
    if job.host:
        lines.append(f"on {job.host}")
    if job.status == "running" and job.seconds is not None:
        lines.append(f"since {duration(job.seconds)}")
    if job.silent > _SILENT and job.status == "running":
        lines.append(f"has written nothing for {duration(job.silent)}")
    if job.error:
        lines.append(one_line(job.error))
    return f": {', '.join(lines)}" if lines else ""


def clock(seconds: float) -> str:
    """Return the time of day in `seconds` from now, by this machine's clock; with the date if that is not today."""
    then = datetime.now() + timedelta(seconds=seconds)
    return f"{then:%H:%M}" if then.date() == datetime.now().date() else f"{then:%d %b %H:%M}"


def duration(seconds: float) -> str:
    """Format seconds as a person would say them.

    >>> [duration(s) for s in (12.4, 90, 7500)]
    ['12 s', '2 min', '2 h 5 min']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds (the folder stands before --watch)") from None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m wasi.status", description=__doc__.partition(":")[2].strip())
    a_sweep = "a sweep's folder, or its name below multirun/"
    parser.add_argument("sweeps", metavar="SWEEP", nargs="+", type=sweep_of("SWEEP"), help=a_sweep)
    parser.add_argument(
        "--watch", metavar="SECONDS", nargs="?", type=_seconds, const=10.0, help="tell again every so often (10)"
    )
    options = parser.parse_args()
    if options.watch is not None and not 0 < options.watch <= _LONGEST_WATCH:
        raise UserError("--watch", options.watch, f"a number of seconds above 0, up to {_LONGEST_WATCH:.0f} (a day)")
    while True:
        text = printable("\n".join(line for sweep in options.sweeps for line in lines(sweep)))
        print(text if options.watch is None else f"\033[2J\033[H{text}", flush=True)
        if options.watch is None:
            return
        time.sleep(options.watch)


if __name__ == "__main__":
    run_cli(main)
