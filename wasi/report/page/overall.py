"""The first statements of the page: which results are missing, and doubts about how its numbers were made."""

from collections import Counter
from collections.abc import Iterable, Sequence

from wasi.report.conclusion import Statement
from wasi.report.fields import listed, listed_some, name_of
from wasi.report.groups import Group, short_names, unlike, with_equal_options
from wasi.report.load import Run
from wasi.report.options import show_option


def overall(runs: Sequence[Run], doubts: Sequence[str], not_begun: int = 0) -> list[Statement]:
    """The statements about the whole page.

    Args:
        doubts: lines on how the numbers were made, see `doubts_about`.
        not_begun: the number of the sweep's jobs without any result.
    """
    found = []
    ended = Counter(run.status for run in runs if not run.completed)
    if ended:
        counts = ", ".join(f"{count} {status}" for status, count in ended.items())
        groups = with_equal_options(runs)
        total, several = sum(ended.values()), len(runs) > 1
        words = f"of {len(runs)} run{'s' * several} {'is' if total == 1 else 'are'} left out of all numbers"
        text = f"{total} {words}: {counts}. Reasons: see “Not averaged”, at the end."
        found.append(Statement(text + _without_result(groups) + _without_some_seeds(groups), "loud"))
    if not_begun:
        jobs = "1 job of the sweep has" if not_begun == 1 else f"{not_begun} jobs of the sweep have"
        found.append(Statement(f"{jobs} not begun, and {'is' if not_begun == 1 else 'are'} no part of this.", "loud"))
    if not any(run.completed for run in runs):
        found.append(Statement("No run was completed, so there is nothing to compare yet.", "main"))
    return found + [Statement(f"{line[0].upper()}{line[1:]}.", "loud") for line in doubts]


def _without_result(groups: Sequence[Group]) -> str:
    """A sentence that names the configurations without a completed run of any seed; "" if it would name none or all."""
    missing = [group for group in groups if not _completed(group)]
    found = 0 < len(missing) < len(groups)
    return f" So there is no result at all of {_named(missing, groups)}." if found else ""


def _without_some_seeds(groups: Sequence[Group]) -> str:
    """A sentence that names the configurations of which only some seeds were completed; "" if there are none.

    What stopped a seed may have harmed the others, too.
    """
    partly = [group for group in groups if _completed(group) and _seeds(group.runs) - _seeds(_completed(group))]
    return f" The means of {_named(partly, groups)} are over the seeds that are left." if partly else ""


def _completed(group: Group) -> list[Run]:
    return [run for run in group.runs if run.completed]


def _seeds(runs: Iterable[Run]) -> set[str]:
    return {str(run.config.get("seed")) for run in runs}


def _named(some: Sequence[Group], groups: Sequence[Group]) -> str:
    """The names of configurations, each once, by `listed_some`."""
    return listed_some(list(dict.fromkeys(_distinguishing_name(group, groups) for group in some)))


def _distinguishing_name(group: Group, groups: Sequence[Group]) -> str:
    """The configuration's name and, if others with results have it too, the options in which it differs from the most
    similar one: `wasi 0.8, vit_micro on digits with lr=0.05`."""
    name = _name(group)
    twins = [other for other in groups if other is not group and _completed(other) and _name(other) == name]
    apart = [sorted(unlike(group, twin)) for twin in twins]
    keys = min(apart, key=len) if apart else []
    options = [f"{short}={show_option(key, group.options.get(key))}" for key, short in short_names(keys).items()]
    return name + (f" with {listed(options)}" if options else "")


def _name(group: Group) -> str:
    """The recipe, or method, thresholds, model and data set."""
    return str(group.config.get("recipe") or name_of(group.runs[0]).rpartition(", seed ")[0])
