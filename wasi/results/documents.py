"""Tables between markers in README.md and docs/*.md.

A document has a line `<!-- table: NAME -->` and below it a line `<!-- /table -->`. What stands between the two is
replaced by the table of results/NAME/*.json. With `<!-- table: NAME of ROW, ROW -->` the table has these rows only, and
the sentences above it are still about all rows. What a column means is said below the first table of a document that
has it. Between `<!-- brief: NAME of ROW, ROW -->` and `<!-- /brief -->` stand these rows in fewer columns, without
sentences. Between `<!-- grid: NAME -->` and `<!-- /grid -->` stand the learning rates that the runs in results/NAME
tried.
"""

import re
from functools import partial
from pathlib import Path

from wasi.atomic import atomic_write_text
from wasi.errors import UserError
from wasi.results.grid import grid
from wasi.results.kept_result import read_kept
from wasi.results.rows import table_of
from wasi.results.table import legend, markdown

_KINDS = "table|brief|grid"
_OPENING = re.compile(rf"^<!-- ({_KINDS}): (.+) -->$", re.MULTILINE)
_TABLE = re.compile(rf"^<!-- ({_KINDS}): (.+) -->\n(?:(?!<!-- (?:{_KINDS}): ).*\n)*?<!-- /\1 -->$", re.MULTILINE)


def stale_documents(root: Path) -> dict[Path, str]:
    """The documents below `root` whose tables are not those of results/, each with its new text. Writes nothing.

    Raises:
        UserError: a marker has no end, a name has no results, or results make no table.
    """
    found = {}
    for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        if not path.is_file():
            continue
        old = path.read_text(encoding="utf-8")
        opened, closed = _OPENING.findall(old), _TABLE.findall(old)
        if opened != closed:
            kind, name = next(marker for marker in opened if opened.count(marker) > closed.count(marker))
            raise UserError(kind, name, f"followed by <!-- /{kind} --> in {path.relative_to(root)}")
        new = _TABLE.sub(partial(_with_table, root, set()), old)
        if new != old:
            found[path] = new
    return found


def _with_table(root: Path, explained: set[str], match: re.Match[str]) -> str:
    """Two markers of `_TABLE` with the table between them that they ask for."""
    kind, asked = match[1], match[2]
    return f"<!-- {kind}: {asked} -->\n{_table(root, kind, asked, explained)}\n<!-- /{kind} -->"


def _table(root: Path, kind: str, asked: str, explained: set[str]) -> str:
    """The table, brief table or grid that a marker asks for, as Markdown.

    Args:
        explained: what the document has explained above, which is left out; what this table explains is added.
    """
    if kind == "grid":
        return grid(asked, read_kept(root / "results" / asked))
    name, _, rows = asked.partition(" of ")
    table = table_of(name, read_kept(root / "results" / name))
    chosen = [row.strip() for row in rows.split(",")] if rows else None
    there = {row.name for row in table.rows}
    if not there.issuperset(chosen or ()):
        raise UserError(kind, asked, f"rows of results/{name}: {', '.join(sorted(there))}")
    if kind == "brief":
        return markdown(table, chosen, is_brief=True)
    text = markdown(table, chosen, explained=explained)
    explained.update(legend(table, chosen))
    return text


def update(root: Path) -> list[Path]:
    """Write the stale documents anew and return their paths."""
    stale = stale_documents(root)
    for path, text in stale.items():
        atomic_write_text(path, text)
    return list(stale)
