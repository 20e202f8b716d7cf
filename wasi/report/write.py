"""The whole report: read, group, compare, write, and give back what the terminal shows."""

import re
import sys
from pathlib import Path

from wasi.atomic import atomic_write_bytes, atomic_write_text
from wasi.errors import UserError
from wasi.report.baseline import compare
from wasi.report.csv_files import groups_csv, relative, runs_csv
from wasi.report.fields import name_of
from wasi.report.groups import blocks_of
from wasi.report.load import Run, read_runs
from wasi.report.markdown import markdown
from wasi.report.provenance import provenance_lines
from wasi.report.table import LEGEND, block_text
from wasi.report.tuning import tuning_lines

_ASCII = str.maketrans({"±": "+-", "×": "x", "≈": "~", "Δ": "-", "●": "*"})
_WITHOUT_ERROR = {
    "running": "still at work, or its process died without an ending",
    "interrupted": "stopped; the same command continues it",
}


def write(dirs: list[Path]) -> str:
    """See `wasi.report.write_report`."""
    runs, warnings = read_runs(dirs)
    folder = dirs[0]
    blocks = [(block, compare(block)) for block in blocks_of(runs)]
    provenance = provenance_lines([run for run in runs if run.completed] or runs)
    warnings += [f"{block.model} on {block.dataset}: {_ALIKE}" for block, _ in blocks if block.alike]
    tuning = tuning_lines(dirs)
    not_averaged = [_ending(run, folder) for run in runs if not run.completed]
    try:
        atomic_write_text(folder / "report.csv", runs_csv(runs, folder))
        atomic_write_text(folder / "report_groups.csv", groups_csv(blocks))
        illustrated = [(*pair, _write_figure(*pair, folder)) for pair in blocks]
        text = markdown(illustrated, provenance, tuning, not_averaged, warnings)
        atomic_write_text(folder / "report.md", text)
    except OSError as error:
        raise UserError("DIR", folder, f"a folder that can be written into ({error.strerror})") from error
    figures = [figure for *_, figure in illustrated if figure]
    return printable(_text(blocks, provenance, tuning, not_averaged, warnings, folder, figures))


_ALIKE = "rows with equal options and seed but different fingerprints (weights or data differed) stand apart"


def _text(
    blocks: list,
    provenance: list[str],
    tuning: list[str],
    not_averaged: list[str],
    warnings: list[str],
    folder: Path,
    figures: list[str],
) -> str:
    parts = [block_text(*pair) for pair in blocks] or ["no completed run yet"]
    if blocks:
        parts.append("\n".join([*LEGEND, *provenance]))
    if tuning:
        parts.append("\n".join(tuning))
    if not_averaged:
        parts.append("\n".join(["not averaged:", *(f"  {line}" for line in not_averaged)]))
    if warnings:
        parts.append("\n".join(f"warning: {line}" for line in warnings))
    parts.append(f"written to {folder}: {', '.join(['report.md', 'report.csv', 'report_groups.csv', *figures])}")
    return "\n\n".join(parts)


def _write_figure(block, comparisons, folder: Path) -> str | None:
    from wasi.report.figures import draw

    image = draw(block, comparisons)
    if image is None:
        return None
    name = f"accuracy_vs_cost_{_file_part(block.model)}_{_file_part(block.dataset)}.png"
    atomic_write_bytes(folder / name, image)
    return name


def _file_part(label: str) -> str:
    """
    >>> _file_part("vit_b_32 (surrogate weights)")
    'vit_b_32_surrogate_weights'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "_", label).strip("_")


def _ending(run: Run, folder: Path) -> str:
    reason = " ".join((run.error or _WITHOUT_ERROR.get(run.status, "no reason recorded")).split())
    return f"{run.status}: {name_of(run)}: {reason} ({relative(run.path.parent, folder)})"


def printable(text: str) -> str:
    """The text as far as the terminal's encoding goes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text
