"""Where the runs of a report come from, in a line, and whether they come from one place."""

from collections.abc import Callable, Sequence
from typing import Any

from wasi.report.load import Run, select


def one_machine(runs: Sequence[Run]) -> bool:
    """Whether times of these runs can be compared; what a result does not tell is not held against it."""
    return all(len(_known(runs, read)) <= 1 for read in (_machine, _threads))


def provenance_lines(runs: Sequence[Run]) -> list[str]:
    """First a line with commit, torch, machine and threads; then one for each that is mixed or doubtful."""
    found = {name: _known(runs, read) for name, read in _FIELDS.items()}
    line = ", ".join(" | ".join(values) for values in found.values() if values)
    lines = [line or "not recorded"]
    lines += [f"mixed {name}: {' | '.join(values)}" for name, values in found.items() if len(values) > 1]
    if any(run.provenance.get("git_dirty") for run in runs):
        lines.append("dirty: some code differed from its commit")
    return lines


def _known(runs: Sequence[Run], read: Callable[[Run], Any]) -> list[str]:
    return list(dict.fromkeys(value for run in runs if (value := read(run))))


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


def _threads(run: Run) -> str | None:
    threads = select(run.provenance, "threads.torch")
    return threads and f"{threads} thread{'s' if threads != 1 else ''}"


_FIELDS = {"commits": _commit, "torch versions": _torch, "machines": _machine, "threads": _threads}
