"""Copies the results of finished sweeps into a folder of kept results."""

import json
import re
from pathlib import Path

from wasi import file_names
from wasi.atomic import atomic_write_text
from wasi.errors import UserError
from wasi.report.kept import is_kept
from wasi.report.load import Unusable, read_run, was_tried_only
from wasi.results.kept_result import kept_of
from wasi.runs.folder import files_below
from wasi.runs.result import read_json

_ROW = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")  # tables are asked for "of ROW, ROW", without quotes


def collect(sweeps: list[Path], into: Path, row: str | None = None) -> list[str]:
    """Make `into` hold the results of the completed jobs below `sweeps` and no others.

    Args:
        row: a name that all of these jobs get as their row's, for a configuration that has none of its own. With it
            the jobs are added to `into`, and what is there already stays.

    Returns:
        One line for each job that was left out and each file that was removed.

    Raises:
        UserError: a folder is missing, no job below them is completed, `into` is a file or one of `sweeps`, or `row` is
            no name.
        OSError: a folder below `sweeps` cannot be listed.
    """
    if row is not None and not _ROW.fullmatch(row):
        raise UserError("--row", row, "a name of letters, digits and _ . + -, not starting with a dot")
    if into.resolve() in (sweep.resolve() for sweep in sweeps):
        raise UserError("--into", into, "another folder than the sweep's own, which holds its jobs")
    kept: dict[str, str] = {}
    folders: dict[str, Path] = {}  # the job's folder, by the name of the kept file
    lines = []
    for path in _paths(sweeps):
        job, content = path.parent, read_json(path)
        if content is None or content.get("status") != "completed":
            status = "cannot be read" if content is None else content.get("status", "no result of this program")
            lines.append(f"left out {job}: {status}")
            continue
        try:
            found = kept_of(content)
            read_run(path)
            if row is not None:
                found["config"]["recipe"] = row
            text = json.dumps(found, indent=1, sort_keys=True, allow_nan=False) + "\n"
        except Unusable as reason:
            lines.append(f"left out {job}: {reason}")
            continue
        except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
            lines.append(f"left out {job}: damaged ({type(error).__name__}: {error})")
            continue
        file_name = f"{job.name}.json"
        if folders.get(file_name, job) != job:
            lines.append(f"left out {folders[file_name]}: {job} is the same job")
        kept[file_name] = text
        folders[file_name] = job
    if not kept:
        left_out = f"; {', '.join(lines)}" if lines else ""
        raise UserError("SWEEP", " ".join(map(str, sweeps)), f"a folder with a completed job below it{left_out}")
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError("--into", into, f"a folder, or a name for a new one ({error.strerror})") from error
    for name, text in kept.items():
        atomic_write_text(into / name, text)
    for path in into.glob("*.json"):  # only what an earlier `collect` wrote is removed
        if row is None and path.name not in kept and is_kept(read_json(path)):
            path.unlink()
            lines.append(f"removed {path}: not among these jobs")
    return lines


def _paths(sweeps: list[Path]) -> list[Path]:
    """The result.json and then the bench.json of every job, without those of jobs that tuning only tried."""
    if missing := next((sweep for sweep in sweeps if not sweep.is_dir()), None):
        raise UserError("SWEEP", missing, "an existing folder")
    paths = (path for sweep in sweeps for name in file_names.RESULTS for path in files_below(sweep, name))
    return [path for path in paths if not was_tried_only(path.parent)]
