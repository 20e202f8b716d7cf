"""Learning rates that were tried, and what each gave on validation images, as Markdown."""

from collections import defaultdict
from statistics import fmean

from wasi.errors import UserError
from wasi.report.columns import VALIDATION
from wasi.report.options import show_option
from wasi.report.tuned import EDGE
from wasi.results.kept_result import Record
from wasi.results.rows import refuse_mixtures
from wasi.results.table import source

_RATE, _OPTIMIZER = "optimizer.lr", "optimizer._target_"
_TITLES = ("| | optimizer | validation accuracy by learning rate |", "| --- | --- | --- |")


def grid(name: str, records: list[Record]) -> str:
    """A line per row: validation accuracy at each rate, the best in bold, told apart where no rate lies beyond it.

    Args:
        name: the grid's, for what is refused.

    Raises:
        UserError: the records are not of one clean commit, device and task, or one is no run that was validated; those
            of a row differ in more than the learning rate, or its rates in their seeds.
    """
    refuse_mixtures(name, records)
    if without := next((record for record in records if VALIDATION not in record.metrics), None):
        which = f"{without.row}, seed {without.seed}, a {without.kind}"
        raise UserError("grid", name, f"results with an accuracy on validation images; {which}, has none")
    rows: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.row):
        rows[record.row].append(record)
    lines = [_line(name, row, found) for row, found in rows.items()]
    seeds = sorted({record.seed for record in records})
    legend = f"Seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}. **Bold**: the best of its row."
    return "\n\n".join(["\n".join([*_TITLES, *lines]), legend, source(records)])


def _line(name: str, row: str, records: list[Record]) -> str:
    others = {repr(sorted((k, v) for k, v in record.config.items() if k != _RATE)) for record in records}
    found: dict[float, dict[int, float]] = defaultdict(dict)
    for record in records:
        found[record.config[_RATE]][record.seed] = record.metrics[VALIDATION]
    seeds = {tuple(sorted(by_seed)) for by_seed in found.values()}
    if len(others) > 1 or len(seeds) > 1 or sum(map(len, found.values())) < len(records):
        raise UserError("grid", name, f"runs of row {row} that differ in {_RATE} alone, each with the same seeds once")
    accuracy = {rate: fmean(by_seed.values()) for rate, by_seed in sorted(found.items())}
    best = max(accuracy, key=lambda rate: accuracy[rate])
    cells = [f"{rate:g}: {value:.4f}" for rate, value in accuracy.items()]
    place = list(accuracy).index(best)
    on_edge = place in (0, len(cells) - 1)
    cells[place] = f"**{cells[place]}**" + (f" {EDGE}" if on_edge else "")
    optimizer = show_option(_OPTIMIZER, records[0].config[_OPTIMIZER])
    return f"| {row} | {optimizer} | {', '.join(cells)} |"
