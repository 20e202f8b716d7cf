"""The learning rates that were tried, and the validation accuracy that each of them gave, as Markdown."""

from wasi.errors import UserError
from wasi.report.columns import VALIDATION
from wasi.report.groups import Group, unlike
from wasi.report.load import Run
from wasi.report.options import row_name, unquotable
from wasi.report.tuned import EDGE
from wasi.results.rows import by_row, refuse_mixtures
from wasi.results.table import optimizer_name, source

_RATE = "optimizer.lr"
_TITLES = ("| | optimizer | validation accuracy by learning rate |", "| --- | --- | --- |")


def grid(name: str, runs: list[Run]) -> str:
    """A table with one line per row: its mean validation accuracy at each learning rate.

    The best one is bold, with a remark where it is at an end of the rates that were tried.

    Args:
        name: the grid's name, for error messages.

    Raises:
        UserError: the results are not of one clean commit, one device and one task; one of them has no validation
            accuracy, or one that must not be quoted; or the runs of a row differ in more than learning rate and seed,
            or lack a seed at some rate.
    """
    refuse_mixtures("grid", name, runs)
    if reasons := [reason for run in runs for reason in unquotable(run.config)]:
        raise UserError("grid", name, f"accuracies that mean something, not those of {reasons[0]}")
    if without := next((run for run in runs if VALIDATION not in run.metrics), None):
        kind = "bench" if without.is_bench else "run"
        which = f"{row_name(without.config)}, seed {without.config['seed']}, a {kind}"
        raise UserError("grid", name, f"results with an accuracy on validation images; {which}, has none")
    lines = [_line(name, row, groups) for row, groups in sorted(by_row(runs).items())]
    seeds = sorted({run.config["seed"] for run in runs})
    legend = f"Seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}. **Bold**: the best of its row."
    return "\n\n".join(["\n".join([*_TITLES, *lines]), legend, source(runs)])


def _line(name: str, row: str, groups: list[Group]) -> str:
    groups = sorted(groups, key=lambda group: group.options[_RATE])
    differing = set().union(*(unlike(groups[0], group) for group in groups))
    seeds = sorted(groups[0].by_seed(VALIDATION))
    if differing - {_RATE} or any(sorted(map(str, group.seeds)) != seeds for group in groups):
        raise UserError("grid", name, f"runs of row {row} that differ in {_RATE} alone, each with the same seeds once")
    best = max(groups, key=lambda group: group.validated)
    cells = [f"{group.options[_RATE]:g}: {group.validated:.4f}" for group in groups]
    index = groups.index(best)
    on_edge = index in (0, len(cells) - 1)
    cells[index] = f"**{cells[index]}**" + (f" {EDGE}" if on_edge else "")
    return f"| {row} | {optimizer_name(best.options)} | {', '.join(cells)} |"
