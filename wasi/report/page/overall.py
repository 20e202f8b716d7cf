"""The first of the page's words: what is missing from all of it, and doubts about where its numbers come from."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from wasi.report.fields import listed, name_of
from wasi.report.load import Run
from wasi.report.options import result_options

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
        found.append(Statement(text + _without_result(runs) + _without_some_seeds(runs), "loud"))
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
    return f" So there is no result at all of {_named(missing)}." if done and missing else ""


def _without_some_seeds(runs: Sequence[Run]) -> str:
    """The configurations of which some seeds count and others do not: what stopped one may have harmed the others."""
    seeds: dict[str, set[str]] = {}
    for run in runs:
        if run.completed:
            seeds.setdefault(_options(run), set()).add(str(run.config.get("seed")))
    ended = [(run, seeds.get(_options(run))) for run in runs if not run.completed]
    lost = [run for run, others in ended if others and str(run.config.get("seed")) not in others]
    partly = list(dict.fromkeys(map(_configuration, lost)))
    return f" The means of {_named(partly)} are over the seeds that are left." if partly else ""


def _named(names: Sequence[str]) -> str:
    more = [f"{len(names) - _MOST_NAMES} more"] if names[_MOST_NAMES:] else []
    return listed([*names[:_MOST_NAMES], *more])


def _options(run: Run) -> str:
    return json.dumps(result_options(run.config), sort_keys=True)


def _configuration(run: Run) -> str:
    """`name_of`, or the recipe, without the seed."""
    return str(run.config.get("recipe") or name_of(run).rpartition(", seed ")[0])
