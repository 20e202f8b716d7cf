"""The first of the page's words: what is missing from all of it, and doubts about where its numbers come from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from wasi.report.fields import listed, name_of
from wasi.report.load import Run

_MOST_NAMES = 6  # of configurations; what is more is told by its number


@dataclass(frozen=True)
class Statement:
    """A sentence or two. `tone`: `loud` for what must not be overlooked, `main` for the answer, else `plain`."""

    text: str
    tone: str = "plain"


def overall(runs: Sequence[Run], doubts: Sequence[str], not_begun: int = 0) -> list[Statement]:
    """What holds for the whole page: what is missing from it, and doubts about where its numbers come from.

    Args:
        not_begun: jobs of the sweep that have left nothing yet.
    """
    found = []
    ended = Counter(run.status for run in runs if not run.completed)
    if ended:
        counts = ", ".join(f"{count} {status}" for status, count in ended.items())
        total, several = sum(ended.values()), len(runs) > 1
        words = f"of {len(runs)} run{'s' * several} {'is' if total == 1 else 'are'} left out of all numbers"
        text = f"{total} {words}: {counts}. Reasons: see “Not averaged”, at the end."
        found.append(Statement(text + _without_result(runs), "loud"))
    if not_begun:
        jobs = "1 job of the sweep has" if not_begun == 1 else f"{not_begun} jobs of the sweep have"
        found.append(Statement(f"{jobs} not begun, and {'is' if not_begun == 1 else 'are'} no part of this.", "loud"))
    if not any(run.completed for run in runs):
        found.append(Statement("No run was completed, so there is nothing to compare yet.", "main"))
    return found + [Statement(f"{line[0].upper()}{line[1:]}.", "loud") for line in doubts]


def _without_result(runs: Sequence[Run]) -> str:
    """The configurations, whatever their seeds, of which no run was completed, where others were."""
    done = {_configuration(run) for run in runs if run.completed}
    missing = list(dict.fromkeys(name for run in runs if (name := _configuration(run)) not in done))
    if not done or not missing:
        return ""
    named = listed([*missing[:_MOST_NAMES], *([f"{len(missing) - _MOST_NAMES} more"] if missing[_MOST_NAMES:] else [])])
    return f" So there is no result at all of {named}."


def _configuration(run: Run) -> str:
    """`name_of`, or the recipe, without the seed."""
    return str(run.config.get("recipe") or name_of(run).rpartition(", seed ")[0])
