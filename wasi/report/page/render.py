"""Puts the whole page together as one HTML file."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from wasi.paths import text_without_absolute_paths, without_absolute_paths
from wasi.report.conclusion import Statement, of_block
from wasi.report.csv_files import relative
from wasi.report.fields import baseline_in_words, facts_of
from wasi.report.gathered import Report
from wasi.report.meanings import meanings_of
from wasi.report.page import accuracy, epochs, parts, ranks, thresholds
from wasi.report.page.cells import columns
from wasi.report.page.figure import Section
from wasi.report.page.library import library
from wasi.report.page.overall import overall
from wasi.report.page_rows import Row, rows_of
from wasi.report.wrapping import pieces

_HERE = Path(__file__).parent
_SECTIONS = (
    accuracy.section,
    parts.memory,
    parts.time,
    thresholds.time,
    thresholds.savings,
    ranks.section,
    epochs.stability,
    epochs.curves,
)


@dataclass(frozen=True)
class Part:
    """The part of the page about one model on one data set."""

    title: str
    facts: str
    statements: list[Statement]
    sections: list[Section]
    remarks: list[str]


def page(report: Report) -> str:
    """The text of report.html.

    Raises:
        ImportError: vl-convert-python is not installed.
    """
    rows: list[Row] = []
    found = []
    for block in report.blocks:
        own = rows_of(block, first=len(rows))
        rows += own
        sections = [section for make in _SECTIONS if (section := make(own)) is not None]
        found.append(Part(block.title, facts_of(block), of_block(own), sections, _remarks(own)))
    statements = overall(report.runs, report.doubts, report.not_begun)
    return _environment().get_template("page.html").render(
        title=report.title,
        origin=report.origin,
        statements=statements + [Statement(line, "loud") for line in report.on_edge],
        parts=found,
        rows=rows,
        columns=columns(rows),
        baseline=baseline_in_words(row.comparison for row in rows),
        methods=meanings_of(row.group.method for row in rows),
        tuning=report.tuning,
        not_averaged=list(map(text_without_absolute_paths, report.not_averaged)),
        warnings=list(map(text_without_absolute_paths, report.warnings + _measured_badly(rows))),
        figures=_script_data([figure.spec for part in found for s in part.sections for figure in s.figures]),
        details=_script_data([_details(row, report.folder) for row in rows]),
        style=_read("page.css"),
        script=_read("page.js"),
        library=library(),
    )


def _environment() -> Environment:
    found = Environment(loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    found.filters["breakable"] = _breakable
    return found


def _breakable(name: str) -> Markup:
    """The name as HTML in which a browser may break the line between its `pieces`."""
    return Markup("<wbr>").join(map(escape, pieces(name)))


def _script_data(value: Any) -> str:
    """The value as JSON that is safe inside a script element."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _details(row: Row, folder: Path) -> dict[str, Any]:
    """What the page shows after a click on a row."""
    runs = [*row.group.trained, *([row.group.bench] if row.group.bench else [])]
    folders = [relative(run.shown_path, folder) for run in runs] or [relative(row.group.runs[0].shown_path, folder)]
    config = {key: value for key, value in row.group.config.items() if key not in ("hydra", "sweep")}
    return {
        "name": row.name,
        "about": f"{row.block.title}; seed{'s' * (len(row.group.seeds) > 1)} {', '.join(map(str, row.group.seeds))}",
        "remarks": row.comparison.remarks,
        "folders": folders,
        "config": yaml.safe_dump(without_absolute_paths(config), sort_keys=False, allow_unicode=True),
    }


def _remarks(rows: list[Row]) -> list[str]:
    """The remarks on how rows compare, each after the names of its rows unless it is about all of them."""
    found = _with_names((row.quoted_name, remark) for row in rows for remark in row.comparison.remarks)
    return [remark if len(names) == len(rows) else f"{', '.join(names)}: {remark}" for remark, names in found.items()]


def _measured_badly(rows: list[Row]) -> list[str]:
    """The warnings of benchmarks about their own measurements, each after the names of its rows."""
    benches = [(row, row.group.bench) for row in rows if row.group.bench is not None]
    found = _with_names(
        (row.quoted_name, line.removeprefix("ours "))  # as opposed to its baseline's; here a name stands before it
        for row, bench in benches for line in bench.provenance.get("warnings") or []
    )  # fmt: skip
    return [f"{', '.join(names)}: {line}" for line, names in found.items()]


def _with_names(remarks: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The names for each line, from pairs of name and line."""
    found: dict[str, list[str]] = {}
    for name, line in remarks:
        found.setdefault(line, []).append(name)
    return found


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
