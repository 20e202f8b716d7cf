"""Writes a report's tables as text for a terminal of about 120 characters."""

import textwrap
from collections.abc import Iterable, Sequence

from wasi.report.blocks import Block, row_names
from wasi.report.columns import DROPPED_FIRST
from wasi.report.comparison import Comparison
from wasi.report.conclusion import statements
from wasi.report.fields import (
    DASH,
    TUNED,
    WITHIN_NOISE,
    Field,
    baseline_in_words,
    facts_of,
    fields_of,
    have_ratios,
    tuned_of,
)

WIDTH = 120

_MEANINGS = {
    "×": "×: {baseline}'s cost / this, above 1 is better",
    "±": "±: sample standard deviation over the n seeds",
    "eps W": "eps W: threshold for the weights",
    "eps A": "eps A: threshold for the activations",
    "Δ vanilla": "Δ vanilla: accuracy minus vanilla's; (…): no test",
    "Δ baseline": "Δ baseline: accuracy minus that of vanilla or of the row that a remark or bench.baseline_recipe "
    "names; (…): no test",
    "≈": "≈: within noise",
    "●": "●: on the Pareto front, no other row is as good in accuracy, step time and train MiB and better in one",
}


def legend(blocks: Iterable[str], comparisons: Sequence[Comparison] = ()) -> str:
    """The lines that explain the signs in the blocks' texts; "" if there are none.

    Args:
        comparisons: those of the blocks, which decide what within noise means and what a baseline is called.
    """
    shown, baseline = "\n".join(blocks), baseline_in_words(comparisons)
    found = {sign: meaning.format(baseline=baseline) for sign, meaning in _MEANINGS.items() if sign in shown}
    if "×" in found and have_ratios(comparisons, in_turns=True):
        found["×"] += "; in benchmarks of times in turns (ms of two rows are of different moments)"
    if WITHIN_NOISE in found:
        found[WITHIN_NOISE] += f" ({'; '.join(_tests(comparisons))})"
    return "\n".join(found.values())


def _tests(comparisons: Sequence[Comparison]) -> list[str]:
    """How differences and ratios of these rows are judged."""
    over_seeds = have_ratios(comparisons, in_turns=False) or any(one.p is not None for one in comparisons)
    tests = {
        "t-test over seeds, p >= 0.05": over_seeds,
        "costs measured in turns: their 95 % interval has 1 in it": have_ratios(comparisons, in_turns=True),
    }
    return [words for words, applies in tests.items() if applies]


def block_text(block: Block) -> str:
    """A block as heading, sentences, table, and the remarks that its rows refer to by number.

    The main sentence is left for `answers`, at the end of the text, where a reader sees it first.
    """
    fields = _fitting(fields_of(block))
    heading = f"{block.title}: {facts_of(block)}"
    notes = [f"  [{number}] {remark}" for number, remark in enumerate(block.remarks, start=1)]
    if not any(field.title == TUNED for field in fields):
        notes += _tuned_notes(block)
    said = textwrap.wrap(" ".join(one.text for one in statements(block) if one.tone != "main"), WIDTH)
    lines = _lines(fields)
    if len(lines[0]) > WIDTH:
        lines = _lines(fields, gap=" ")
    return "\n".join([heading, *said, *lines, *notes])


def answers(blocks: Iterable[Block]) -> list[str]:
    """The main sentence about each block, such as what WASI saves, behind the block's title."""
    said = [(block.title, one.text) for block in blocks for one in statements(block) if one.tone == "main"]
    return [textwrap.fill(f"{title}: {text}", WIDTH) for title, text in said]


def _fitting(fields: list[Field]) -> list[Field]:
    """The columns that fit into the terminal.

    If they do not all fit, options that a recipe's name stands for are left out first, then costs in the order of
    `DROPPED_FIRST`, and last what tuning chose.
    """
    if len(_lines(fields)[0]) > WIDTH:
        fields = _named_by_recipe(fields)
    for dropped in (*DROPPED_FIRST, TUNED):
        if len(_lines(fields)[0]) <= WIDTH:
            break
        fields = [field for field in fields if dropped not in (field.cost, field.title)]
    return fields


def _named_by_recipe(fields: list[Field]) -> list[Field]:
    """The columns without those of options, if every row has a recipe of its own; else all of them."""
    titles = [field.title for field in fields]
    recipes = fields[titles.index("recipe")].values if "recipe" in titles else []
    if not recipes or len(set(recipes)) < len(recipes):
        return fields
    first_number = next((index for index, field in enumerate(fields) if field.title == "n" or field.cost), len(fields))
    named = [field for field in fields[:first_number] if field.title in ("method", "recipe", TUNED)]
    return named + fields[first_number:]


def _tuned_notes(block: Block) -> list[str]:
    """What tuning chose, in a line for each row, for a table without room for that column."""
    named = zip(row_names(block), block.groups, strict=True)
    lines = [f"  {TUNED}: {name}: {value}" for name, group in named if (value := tuned_of(group)) != DASH]
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="    ")]


def _lines(fields: list[Field], gap: str = "  ") -> list[str]:
    columns = [_column(field) for field in fields]
    titles, *rows = ("  " + gap.join(cells) for cells in zip(*columns, strict=True))
    return [titles, "  " + "-" * (len(titles) - 2), *rows]


def _column(field: Field) -> list[str]:
    """Title and cells padded to one width, so that values and ratios stand under one another."""
    cells = field.values
    if field.ratios is not None and any(field.ratios):
        marked = any(ratio.endswith(WITHIN_NOISE) for ratio in field.ratios)
        ratios = [f"{ratio} " if marked and not ratio.endswith(WITHIN_NOISE) else ratio for ratio in field.ratios]
        left, right = max(map(len, field.values)), max(map(len, ratios))
        pairs = zip(field.values, ratios, strict=True)
        cells = [f"{value:>{left}} {ratio:>{right}}" for value, ratio in pairs]
    width = max(len(field.title), *map(len, cells))
    return [text.ljust(width) if field.is_text else text.rjust(width) for text in [field.title, *cells]]
