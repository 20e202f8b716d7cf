"""Reads every result below some folders, groups and compares them: all that a report says, in no form yet."""

from dataclasses import dataclass
from pathlib import Path

from wasi import file_names
from wasi.errors import one_line
from wasi.report.blocks import Block, blocks_of
from wasi.report.csv_files import relative
from wasi.report.fields import name_of
from wasi.report.load import Run, read_runs
from wasi.report.origins import doubts_about, experiment_of, origin_of
from wasi.report.tuned import tuning_lines
from wasi.runs import plan
from wasi.runs.tuning_file import not_chosen

OF_KEPT_RESULTS = Path("outputs/report")
"""The folder for reports of kept results, as the folders of these hold nothing else."""

_ALIKE = "rows with equal options and seed but different fingerprints (weights or data differed) stand apart"
_WITHOUT_ERROR = {
    "running": "still at work, or its process died without an ending",
    "interrupted": "stopped; the same command continues it",
}


@dataclass(frozen=True)
class Report:
    """What every form of the report says.

    `folder` is where it is written. `origin` is a line on code and machine, and `doubts` are lines on how the numbers
    were made. `tuning`, `not_averaged` and `warnings` are lines, too. `not_begun` is the number of planned jobs without
    any result.
    """

    title: str
    folder: Path
    runs: list[Run]
    blocks: list[Block]
    origin: str
    doubts: list[str]
    tuning: list[str]
    not_averaged: list[str]
    not_begun: int
    warnings: list[str]

    @property
    def on_edge(self) -> list[str]:
        """The lines of `tuning` that warn of a choice at an end of its grid."""
        return [line for line in self.tuning if line.startswith("WARNING")]


def gather(dirs: list[Path], into: Path | None = None) -> Report:
    """Read everything below `dirs`, group and compare it.

    Args:
        into: the folder for the report. None stands for the first of `dirs` or, if that holds kept results, for a
            folder of the same name below `OF_KEPT_RESULTS`.

    Raises:
        UserError: a folder is missing, or no readable result lies below any of them.
    """
    runs, warnings = read_runs(dirs)
    first = dirs[0] if dirs[0].is_dir() else dirs[0].parent
    holds_kept = any(run.is_kept and run.path.resolve().is_relative_to(first.resolve()) for run in runs)
    folder = into or (OF_KEPT_RESULTS / first.resolve().name if holds_kept else first)
    blocks = blocks_of(runs)
    counted = [run for run in runs if run.completed] or runs
    warnings += [f"{block.title}: {_ALIKE}" for block in blocks if block.alike]
    not_averaged = [_ending(run, folder) for run in runs if not run.completed]
    if not_begun := _not_begun(dirs, runs):
        not_averaged.append(f"not begun: {not_begun} of the jobs that the sweep's last command asked for")
    return Report(
        title=experiment_of(runs) or " + ".join(dict.fromkeys(path.resolve().name for path in dirs)),
        folder=folder,
        runs=runs,
        blocks=blocks,
        origin=origin_of(counted),
        doubts=doubts_about(counted),
        tuning=tuning_lines(dirs),
        not_averaged=not_averaged,
        not_begun=not_begun,
        warnings=warnings,
    )


def _not_begun(dirs: list[Path], runs: list[Run]) -> int:
    """The number of jobs in the sweeps' plans that have not even written that they have begun.

    Their files tell, as `runs` lacks those that tuning has rejected and, of a run that two sweeps have, the older.
    """
    sweeps = {folder.resolve() for folder in dirs} | {run.path.resolve().parent.parent for run in runs}
    counts = (plan.not_begun(sweep, not_chosen(sweep) | _begun(sweep)) for sweep in sweeps)
    return sum(count for count, is_exact in counts if is_exact)


def _begun(sweep: Path) -> set[str]:
    return {path.parent.name for name in file_names.RESULTS for path in sweep.glob(f"*/{name}")}


def _ending(run: Run, folder: Path) -> str:
    reason = one_line(run.error or _WITHOUT_ERROR.get(run.status, "no reason recorded"))
    reason = reason.removeprefix(f"{run.status}: ")
    return f"{run.status}: {name_of(run)}: {reason} ({relative(run.shown_path, folder)})"
