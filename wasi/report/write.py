"""Gathers and writes a whole report, and returns what the terminal shows."""

import hashlib
import itertools
import re
from pathlib import Path

from wasi import file_names
from wasi.atomic import atomic_write_bytes, atomic_write_text
from wasi.errors import UserError
from wasi.report.blocks import Block
from wasi.report.csv_files import groups_csv, runs_csv
from wasi.report.gathered import Report, gather
from wasi.report.markdown import markdown
from wasi.report.origins import experiment_of
from wasi.report.terminal import answers, block_text, legend
from wasi.runs.ending import printable

_LONGEST_PART = 80  # characters of a label in a file's name, which may have 255


def write_report(dirs: list[Path], into: Path | None = None) -> str:
    """Write report.html, report.md, report.csv, report_groups.csv and the figures into a folder.

    Args:
        dirs: folders below which every `result.json`, `bench.json` and kept result (`wasi.results`) is read, or
            single such files.
        into: the folder. By default it is the first of `dirs`, or `outputs/report/NAME` if that one is a folder NAME of
            kept results.

    Returns:
        The text for the terminal, about 120 characters wide.

    Raises:
        UserError: a folder is missing or cannot be written, or no readable result lies below any of them.
    """
    report = gather(dirs, into)
    folder = report.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(folder / file_names.REPORT_RUNS, runs_csv(report.runs, folder))
        atomic_write_text(folder / file_names.REPORT_GROUPS, groups_csv(report.blocks))
        figures = [write_figures(block, folder) for block in report.blocks]
        atomic_write_text(folder / file_names.REPORT, markdown(report, figures))
        page = write_page(report)
    except OSError as error:
        option = "DIR" if into is None else "--into"
        raise UserError(option, folder, f"a folder that can be written into ({error.strerror})") from error
    return printable(_text(report, [page, *itertools.chain(*figures)]))


def write_page(report: Report) -> str:
    """Write report.html and return its name, or write nothing and return the reason in a few words."""
    from wasi.report.page.render import page

    try:
        text = page(report)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "vl_convert":
            raise
        return f"report.html passed over, for want of vl-convert-python (pip install -r requirements.txt): {error}"
    atomic_write_text(report.folder / file_names.PAGE, text)
    return file_names.PAGE


def _text(report: Report, files: list[str]) -> str:
    """The text for the terminal. `files` are the names of the page and the figures that were written."""
    parts = [block_text(block) for block in report.blocks] or ["no completed run yet"]
    if report.blocks:
        comparisons = [comparison for block in report.blocks for comparison in block.comparisons]
        parts.append("\n".join(filter(None, [legend(parts, comparisons), report.origin, *report.doubts])))
    if report.tuning:
        parts.append("\n".join(report.tuning))
    if report.not_averaged:
        parts.append("\n".join(["not averaged:", *(f"  {line}" for line in report.not_averaged)]))
    if report.warnings:
        parts.append("\n".join(f"warning: {line}" for line in report.warnings))
    parts.append(f"written to {report.folder}: {', '.join(['report.md', 'report.csv', 'report_groups.csv', *files])}")
    parts += answers(report.blocks)
    if file_names.PAGE in files:
        parts.append(f"all of it as one page: {report.folder / file_names.PAGE}")
    return "\n\n".join(parts)


def write_figures(block: Block, folder: Path) -> list[str]:
    """Write the figure of accuracy against cost as PNG and SVG, and return the names of the files."""
    from wasi.report.figures import draw

    experiment = experiment_of([run for group in block.groups for run in group.runs])
    images = draw(block, experiment or "")
    labels = [*filter(None, [experiment]), "accuracy_vs_cost", block.model, block.dataset]
    return write_images(images, "_".join(map(file_part, labels)), folder)


def write_images(images: dict[str, bytes], stem: str, folder: Path) -> list[str]:
    """Write one picture in several formats and return the files' names. `images` has the bytes by file extension."""
    names = {f"{stem}.{form}": image for form, image in images.items()}
    for name, image in names.items():
        atomic_write_bytes(folder / name, image)
    return list(names)


def file_part(label: str) -> str:
    """A label with only ASCII letters, digits, `.`, `_` and `-`, in at most 80 characters, as a part of a file's name.

    Spaces, brackets and slashes become `_`. Where other characters are left out or the label is too long, a hash of it
    stands at the end, so that labels with a common start, or in another script, keep apart.

    >>> file_part("vit_b_32 (surrogate weights)")
    'vit_b_32_surrogate_weights'
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", label).strip("_")
    if len(name) <= _LONGEST_PART and not re.search(r"[^A-Za-z0-9._ ()/-]", label):
        return name
    return f"{name[: _LONGEST_PART - 9]}_{hashlib.sha256(label.encode()).hexdigest()[:8]}".lstrip("_")
