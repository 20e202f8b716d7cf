"""The page's table: what each cell shows, and by which value its column is sorted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wasi.report.columns import ENERGY, FLOPS, INFERENCE, PEAK, PROCESS, STEP, Cost
from wasi.report.comparison import Comparison
from wasi.report.fields import (
    DASH,
    NOT_QUOTABLE,
    WITHIN_NOISE,
    balanced_accuracy,
    baseline_in_words,
    difference_column,
    interval_text,
    is_imbalanced,
    ratio_text,
    signed,
    significant,
    tuned_of,
)
from wasi.report.meanings import BALANCED, METHOD, PARETO, RANKS_BY_HAND, TUNED
from wasi.report.page_rows import Row

TITLES = {
    PEAK: ("Step peak", "MiB"),
    PROCESS: ("Process peak", "MiB"),
    STEP: ("Step", "ms"),
    INFERENCE: ("Inference", "ms"),
    FLOPS: ("Step FLOPs", "10⁹"),
    ENERGY: ("Step energy", "J"),
}
_RATIO = "{baseline}'s / this, above 1 is better, with ≈ where that is within noise"
_DIFFERENCE = (
    "in percentage points; below it the 95 % t-interval of the mean difference over equal seeds. ≈: within noise, that "
    "is, a t-test finds no difference at the 5 % level"
)
MEANINGS = {
    "Method": METHOD,
    "Threshold": "share of the squared singular values that a compressed weight keeps, and a saved activation in "
    f"each of its modes; one number where both are equal, else weights/activations; {RANKS_BY_HAND}",
    "Seeds": "runs that differ only by their random seed, over which numbers are means; “benchmark”: times and "
    "memory are those of bench_device.py, which measures a configuration and {baseline} in turns",
    "Accuracy": "mean over the seeds of the share of images that are classified correctly, of the test split, or "
    "where a run lacks that, of the validation split; below it the 95 % t-interval of the mean",
    "Balanced": BALANCED,
    "Tuned": TUNED,
    "Δ vanilla": f"accuracy minus vanilla's, {_DIFFERENCE}",
    "Δ baseline": "accuracy minus that of vanilla or of the row that a remark or bench.baseline_recipe names, "
    f"{_DIFFERENCE}",
    "Pareto": PARETO,
    **{TITLES[cost][0]: f"{cost.meaning}; below it {_RATIO}" for cost in TITLES},
}


@dataclass(frozen=True)
class Cell:
    """A `text` with a smaller `note` below it. Columns are sorted by `order`, with None at the end."""

    text: str
    note: str = ""
    order: float | str | None = None

    @property
    def is_empty(self) -> bool:
        return self.text == DASH


@dataclass(frozen=True)
class Column:
    """A column of the table. `is_more_better` says whether a reader first wants the largest values.

    `meaning` is its explanation; "" if it needs none.
    """

    title: str
    unit: str
    cells: list[Cell]
    is_text: bool = False
    is_more_better: bool = False
    meaning: str = ""


def columns(rows: Sequence[Row]) -> list[Column]:
    """The columns after the row's name in which some row has a value."""
    comparisons = [row.comparison for row in rows]
    blocks = Column("Model and data", "", [_text(row.block.title) for row in rows], is_text=True)
    balanced = Column("Balanced", "", [_balanced(row) for row in rows], is_more_better=True)
    found = [
        *([blocks] if len({row.block.title for row in rows}) > 1 else []),
        Column("Method", "", [_text(row.group.method) for row in rows], is_text=True),
        Column("Threshold", "ε", [_threshold(row) for row in rows]),
        Column("Tuned", "", [_text(tuned_of(row.group)) for row in rows], is_text=True),
        Column("Seeds", "", [_seeds(row) for row in rows]),
        Column("Accuracy", "95 % interval", [_accuracy(row) for row in rows], is_more_better=True),
        *([balanced] if any(is_imbalanced(row.group) for row in rows) else []),
        Column(difference_column(comparisons), "points", [_difference(row) for row in rows], is_more_better=True),
        *(Column(*heading, [_cost(row, cost) for row in rows]) for cost, heading in TITLES.items()),
        Column("Pareto", "", [_front(row) for row in rows]),
    ]
    baseline = baseline_in_words(comparisons)
    return [
        replace(column, meaning=MEANINGS.get(column.title, "").format(baseline=baseline))
        for column in found if not all(cell.is_empty for cell in column.cells)
    ]  # fmt: skip


def _text(text: str) -> Cell:
    return Cell(text, order=None if text == DASH else text)


def _threshold(row: Row) -> Cell:
    text = row.threshold
    if text is None:
        return Cell(DASH)
    try:
        return Cell(text, order=float(text.partition("/")[0]))
    except ValueError:  # not a number but a keep ratio, or ranks set by hand
        return Cell(text, order=text)


def _seeds(row: Row) -> Cell:
    trained = len(row.group.trained)
    note = "with benchmark" if trained and row.group.bench else "" if trained else "benchmark"
    return Cell(str(trained) if trained else DASH, note, trained or None)


def _accuracy(row: Row) -> Cell:
    if not row.group.is_quotable:
        return Cell(NOT_QUOTABLE, "not quotable")
    if row.accuracy is None:
        return Cell(DASH)
    bounds = row.accuracy_interval
    note = f"[{bounds[0]:.4f}, {bounds[1]:.4f}]" if bounds else "one seed"
    return Cell(f"{row.accuracy:.4f}", note, row.accuracy)


def _balanced(row: Row) -> Cell:
    value = balanced_accuracy(row.group)
    return Cell(DASH) if value is None else Cell(f"{value:.4f}", order=value)


def _front(row: Row) -> Cell:
    return Cell("●" if row.on_front else DASH, order=int(not row.on_front))  # those on the front first


def _difference(row: Row) -> Cell:
    comparison = row.comparison
    if comparison.accuracy_difference is None:
        return Cell(DASH)
    difference, bounds = 100 * comparison.accuracy_difference, comparison.interval
    mark = f" {WITHIN_NOISE}" if comparison.verdict == "within noise" else ""
    interval = f"[{signed(100 * bounds[0])}, {signed(100 * bounds[1])}]" if bounds else ""
    return Cell(signed(difference) + mark, interval or _without_interval(comparison), difference)


def _without_interval(comparison: Comparison) -> str:
    """Why a difference has no interval, in a few words."""
    if comparison.pairing is not None and comparison.pairing.without_scatter:
        return "the same for every seed"
    if comparison.p is None:
        return "one seed" if comparison.verdict == "n=1, no spread" else "no spread"
    return "other seeds: unpaired" if comparison.is_unpaired else ""


def _cost(row: Row, cost: Cost) -> Cell:
    value = row.cost(cost)
    if value is None:
        return Cell(DASH)
    comparison = row.comparison
    noise = f" {WITHIN_NOISE}" if comparison.within_noise(cost) else ""
    note = ratio_text(comparison.ratio(cost)) + noise + interval_text(comparison.in_turns(cost) or {})
    return Cell(significant(value), note, value)
