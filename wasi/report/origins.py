"""Tells by what code and on which machines the runs of a report were made, and whether their times compare."""

from collections.abc import Callable, Sequence
from typing import Any

from wasi.config.files import select
from wasi.measure.contention import BUSY
from wasi.report.load import Run, threads_of


def one_machine(runs: Sequence[Run]) -> bool:
    """Whether all runs are of one machine, one number of threads and one device, so that their times compare.

    What a result does not tell counts as equal.
    """
    return all(len(_known(runs, read)) <= 1 for read in (_machine, threads_of, _device, _gpu))


def are_comparable(runs: Sequence[Run]) -> bool:
    """Whether the times of these runs compare: `one_machine` holds, and other processes have spoilt none of them."""
    return one_machine(runs) and not was_busy(runs)


def origin_of(runs: Sequence[Run]) -> str:
    """Commit, torch, machine and threads in a line."""
    found = (_known(runs, read) for read in _FIELDS.values())
    return ", ".join(" | ".join(values) for values in found if values) or "not recorded"


def doubts_about(runs: Sequence[Run]) -> list[str]:
    """A line for each doubt about how the numbers were made.

    Machines and threads may differ between runs and benchmarks, as accuracy comes from the former and times from the
    latter, but not within either.
    """
    mixed = [name for name in _FIELDS if _is_mixed(runs, name)]
    lines = [f"mixed {name}: {' | '.join(_known(runs, _FIELDS[name]))}" for name in mixed]
    if any(run.provenance.get("git_dirty") for run in runs):
        lines.append("dirty: some code differed from its commit")
    return lines + _busy(runs)


def waited(run: Run) -> float:
    """The share of time that a run's threads waited for a processor; 0 if it is not known."""
    return select(run.provenance, "cpu_wait_share") or 0.0


def was_busy(runs: Sequence[Run]) -> bool:
    """Whether other processes have spoilt the times of one of these runs."""
    return any(run.is_timed and waited(run) >= BUSY for run in runs)


def _busy(runs: Sequence[Run]) -> list[str]:
    """A line about the runs whose times other processes have spoilt; empty if there are none."""
    timed = [run for run in runs if run.is_timed]
    shares = sorted(share for run in timed if (share := waited(run)) >= BUSY)
    if not shares:
        return []
    text = " to ".join(dict.fromkeys(f"{share:.0%}" for share in (shares[0], shares[-1])))
    return [
        f"busy machine: in {len(shares)} of {len(timed)} timed runs, threads waited for a processor {text} of their "
        "time, as other processes had them; no time of these, and no ratio of times, is to be trusted"
    ]


def experiment_of(runs: Sequence[Run]) -> str | None:
    """The experiment of `conf/experiment` that all runs belong to; None if there is no single one."""
    names = {run.provenance.get("experiment") for run in runs}
    return names.pop() if len(names) == 1 else None


def _known(runs: Sequence[Run], read: Callable[[Run], Any]) -> list[str]:
    return list(dict.fromkeys(value for run in runs if (value := read(run))))


def _is_mixed(runs: Sequence[Run], name: str) -> bool:
    apart = [[run for run in runs if run.is_bench is is_bench] for is_bench in (False, True)]
    kinds = apart if name in _OF_THE_MACHINE else [runs]
    return any(len(_known(kind, _FIELDS[name])) > 1 for kind in kinds)


def _commit(run: Run) -> str | None:
    commit = run.provenance.get("git_commit")
    if not commit:
        return None
    return f"commit {str(commit)[:10]}{' (dirty)' if run.provenance.get('git_dirty') else ''}"


def _torch(run: Run) -> str | None:
    version = select(run.provenance, "versions.torch")
    return version and f"torch {version}"


def _machine(run: Run) -> str | None:
    parts = [select(run.provenance, f"machine.{key}") for key in ("processor", "architecture", "hostname")]
    return " ".join(dict.fromkeys(str(part) for part in parts if part)) or None


def _device(run: Run) -> str | None:
    """`cpu` or `cuda`, without the GPU's number."""
    return str(run.provenance.get("device") or "").partition(":")[0] or None


def _gpu(run: Run) -> str | None:
    """The GPU's name, which benchmarks record."""
    return run.provenance.get("cuda")


_OF_THE_MACHINE = ("machines", "threads")
_FIELDS = {"commits": _commit, "torch versions": _torch, "machines": _machine, "threads": threads_of}
