"""The whole report: read, group, compare, write, and give back what the terminal shows."""

import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from wasi.atomic import atomic_write_bytes, atomic_write_text
from wasi.errors import UserError
from wasi.report.comparison import Comparison, compare
from wasi.report.csv_files import groups_csv, relative, runs_csv
from wasi.report.fields import name_of
from wasi.report.groups import Block, blocks_of
from wasi.report.load import Run, read_runs
from wasi.report.markdown import markdown
from wasi.report.origins import experiment_of, provenance_lines
from wasi.report.terminal import LEGEND, WIDTH, block_text
from wasi.report.tuned import tuning_lines

OF_KEPT_RESULTS = Path("outputs/report")
"""Below it go reports of kept results, whose own folders hold nothing but these."""

PAGE = "report.html"
_ALIKE = "rows with equal options and seed but different fingerprints (weights or data differed) stand apart"
_ASCII = str.maketrans({"±": "+-", "×": "x", "≈": "~", "Δ": "-", "●": "*"})
_WITHOUT_ERROR = {
    "running": "still at work, or its process died without an ending",
    "interrupted": "stopped; the same command continues it",
}


@dataclass(frozen=True)
class Report:
    """What every form of the report says. `folder` is where it goes; from `provenance` on, lines."""

    title: str
    folder: Path
    runs: list[Run]
    blocks: list[tuple[Block, list[Comparison]]]
    provenance: list[str]
    tuning: list[str]
    not_averaged: list[str]
    warnings: list[str]


def gather(dirs: list[Path], into: Path | None = None) -> Report:
    """Read everything below `dirs`, group and compare it.

    Args:
        into: the folder for the report; None for the first of `dirs`, or, where that holds kept results, for one
            of its name below `OF_KEPT_RESULTS`.

    Raises:
        UserError: a folder is missing, or no readable result lies below any of them.
    """
    runs, warnings = read_runs(dirs)
    first = dirs[0] if dirs[0].is_dir() else dirs[0].parent
    holds_kept = any(run.is_kept and run.path.resolve().is_relative_to(first.resolve()) for run in runs)
    folder = into or (OF_KEPT_RESULTS / first.resolve().name if holds_kept else first)
    blocks = [(block, compare(block)) for block in blocks_of(runs)]
    provenance = provenance_lines([run for run in runs if run.completed] or runs)
    warnings += [f"{block.title}: {_ALIKE}" for block, _ in blocks if block.alike]
    not_averaged = [_ending(run, folder) for run in runs if not run.completed]
    title = experiment_of(runs) or " + ".join(dict.fromkeys(path.resolve().name for path in dirs))
    return Report(title, folder, runs, blocks, provenance, tuning_lines(dirs), not_averaged, warnings)


def write(dirs: list[Path], into: Path | None = None) -> str:
    """See `wasi.report.write_report`."""
    report = gather(dirs, into)
    folder, blocks = report.folder, report.blocks
    lines = report.provenance, report.tuning, report.not_averaged, report.warnings
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(folder / "report.csv", runs_csv(report.runs, folder))
        atomic_write_text(folder / "report_groups.csv", groups_csv(blocks))
        illustrated = [(*pair, write_figures(*pair, folder)) for pair in blocks]
        atomic_write_text(folder / "report.md", markdown(illustrated, *lines))
        page = write_page(report)
    except OSError as error:
        option = "DIR" if into is None else "--into"
        raise UserError(option, folder, f"a folder that can be written into ({error.strerror})") from error
    figures = [figure for *_, found in illustrated for figure in found]
    return printable(_text(blocks, *lines, folder, [page, *figures]))


def write_page(report: Report) -> str:
    """Write report.html; its name, or in a few words why there is none."""
    from wasi.report.page.render import page

    try:
        text = page(**vars(report))
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "vl_convert":
            raise
        return f"{PAGE} passed over, for want of vl-convert-python (pip install -r requirements.txt): {error}"
    atomic_write_text(report.folder / PAGE, text)
    return PAGE


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
    parts += _answers(blocks)
    if PAGE in figures:
        parts.append(f"all of it as one page: {folder / PAGE}")
    return "\n\n".join(parts)


def _answers(blocks: list) -> list[str]:
    """Per model and data set what WASI saves there, as the page puts it."""
    from wasi.report.page.conclusion import answer
    from wasi.report.page.page_rows import rows_of

    told = {block.title: answer(rows_of(block, comparisons, first=0)) for block, comparisons in blocks}
    return [textwrap.fill(f"{title}: {text}", WIDTH) for title, text in told.items() if text]


def write_figures(block: Block, comparisons: list[Comparison], folder: Path) -> list[str]:
    """Accuracy against cost as PNG and SVG; the names of the files."""
    from wasi.report.figures import draw

    experiment = experiment_of([run for group in block.groups for run in group.runs])
    images = draw(block, comparisons, experiment or "")
    parts = [*filter(None, [experiment]), "accuracy_vs_cost", file_part(block.model), file_part(block.dataset)]
    return write_images(images, "_".join(parts), folder)


def write_images(images: dict[str, bytes], stem: str, folder: Path) -> list[str]:
    """Write one picture in several formats, `images` by the ending of their names; the files' names."""
    names = {f"{stem}.{form}": image for form, image in images.items()}
    for name, image in names.items():
        atomic_write_bytes(folder / name, image)
    return list(names)


def file_part(label: str) -> str:
    """A label as a part of a file's name.

    >>> file_part("vit_b_32 (surrogate weights)")
    'vit_b_32_surrogate_weights'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "_", label).strip("_")


def _ending(run: Run, folder: Path) -> str:
    reason = " ".join((run.error or _WITHOUT_ERROR.get(run.status, "no reason recorded")).split())
    reason = reason.removeprefix(f"{run.status}: ")
    return f"{run.status}: {name_of(run)}: {reason} ({relative(run.place, folder)})"


def printable(text: str) -> str:
    """The text as far as the terminal's encoding goes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text
