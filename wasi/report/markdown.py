"""Writes a report as report.md."""

from collections.abc import Iterable, Sequence

from wasi.errors import one_line
from wasi.report.blocks import Block
from wasi.report.columns import COSTS
from wasi.report.comparison import Comparison
from wasi.report.conclusion import statements
from wasi.report.fields import Field, baseline_in_words, facts_of, fields_of, have_ratios
from wasi.report.gathered import Report
from wasi.report.meanings import BALANCED, METHOD, PARETO, RANKS_BY_HAND, TUNED, meanings_of

_COLUMNS = {
    "method": METHOD,
    "eps W, eps A": "share of the squared singular values that a weight keeps (W), and a saved activation in each "
    f"of its modes (A); only where the method reads it; {RANKS_BY_HAND}",
    "tuned": TUNED,
    "machine": "what the times are of, where they are of several",
    "n": "completed runs that differ only by seed",
    "test acc, val acc": "accuracy on the test images, or where a run of the table has none, on those of "
    "validation, by which choices are made; a fraction: mean ± sample standard deviation over the n runs",
    "balanced": BALANCED,
    "Δ vanilla, Δ baseline": "accuracy minus that of vanilla or of the row that a remark or `bench.baseline_recipe` "
    "names. ≈: within noise, two-sided t-test with p ≥ 0.05, not corrected for the number of rows: paired over equal "
    "seeds, where one row has all of the other's (in brackets the 95 % interval of the mean difference), else Welch's; "
    "(n=1), (no spread): one seed, or differences that are the same for every seed, so neither interval nor verdict",
    "Pareto": PARETO,
    **{cost.title: cost.meaning for cost in COSTS},
}


def markdown(report: Report, figures: Sequence[list[str]]) -> str:
    """The text of report.md. `figures` has per block the file names of its figure; the first of them is shown."""
    parts = ["# Report", "  \n".join(["Code and machine: " + escape(report.origin), *map(_bold, report.doubts)])]
    parts += map(_bold, report.on_edge)
    for block, files in zip(report.blocks, figures, strict=True):
        parts += _section(block, files)
    if not report.blocks:
        parts.append("**No run was completed, so there is nothing to compare yet.**")
    if report.tuning:
        parts += ["## Tuning", _list(_bold(line) if line in report.on_edge else escape(line) for line in report.tuning)]
    if report.not_averaged:
        parts += ["## Not averaged", _list(map(escape, report.not_averaged))]
    if report.warnings:
        parts += ["## Warnings", _list(map(escape, report.warnings))]
    if report.blocks:
        parts += _explained(report.blocks)
    parts.append("In full precision: `report.csv`, a line per run; `report_groups.csv`, a line per table row.")
    return "\n\n".join(parts) + "\n"


def _section(block: Block, figures: list[str]) -> list[str]:
    parts = [f"## {escape(block.title)}", escape(facts_of(block))]
    parts += [escape(one.text) if one.tone == "plain" else _bold(one.text) for one in statements(block)]
    parts.append(_table(fields_of(block)))
    if block.remarks:
        parts.append(_list(f"[{number}] {escape(remark)}" for number, remark in enumerate(block.remarks, start=1)))
    if figures:
        parts.append(f"![Accuracy against cost, {escape(block.title)}]({figures[0]})")
    return parts


def _explained(blocks: list[Block]) -> list[str]:
    """The meaning of the columns that the tables have, and what the methods do."""
    titles = {field.title for block in blocks for field in fields_of(block)}
    comparisons = [comparison for block in blocks for comparison in block.comparisons]
    baseline = baseline_in_words(comparisons)
    columns = [
        f"**{names}**: {meaning.format(baseline=baseline)}."
        for names, meaning in _COLUMNS.items()
        if titles & set(names.split(", "))
    ]
    methods = meanings_of(group.method for block in blocks for group in block.groups)
    lines = [f"**{escape(name)}**: {meaning}." for name, meaning in methods.items()]
    parts = ["## What the columns mean", _list(columns), _signs(comparisons)]
    return [*parts, "## What the methods do", _list(lines)] if lines else parts


def _signs(comparisons: list[Comparison]) -> str:
    """The sentences on what ×, ±, - and the ≈ of a cost mean, where the tables have them."""
    kinds = {
        "It is of the means over seeds; ≈ behind it: within noise by Welch's t-test over the seeds": False,
        "Where a benchmark measured the two in turns, it is of the benchmark, for times the geometric mean over paired "
        "rounds; ≈ behind it: 1 lies in its 95 % interval": True,
    }
    found = [words for words, in_turns in kinds.items() if have_ratios(comparisons, in_turns)]
    whose = f"{baseline_in_words(comparisons)}'s"
    ratio = f"A number with × is {whose} cost divided by this one, so above 1 is better. {'. '.join(found)}. "
    spread = "± is the sample standard deviation over the seeds, of costs too."
    return (ratio if found else "") + f"{spread} - is what was not measured or does not apply."


def _table(fields: list[Field]) -> str:
    columns = [[field.title, "---" if field.is_text else "---:", *_cells(field)] for field in fields]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True))


def _cells(field: Field) -> list[str]:
    nothing = [""] * len(field.values)
    cells = zip(field.values, field.spreads or nothing, field.ratios or nothing, strict=True)
    return [escape(f"{value}{spread}" + (f" ({ratio})" if ratio else "")) for value, spread, ratio in cells]


def escape(text: str) -> str:
    """The text in one line and escaped, so that Markdown shows it unchanged, within a table too."""
    for character in ("\\", "|", "*", "_", "`", "<"):
        text = text.replace(character, f"\\{character}")
    return one_line(text)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _bold(text: str) -> str:
    return f"**{escape(text)}**"
