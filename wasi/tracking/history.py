"""A file of everything that a run has logged, from which W&B's is made anew after a kill or a lost network."""

import json
import os
from pathlib import Path

from wasi.atomic import atomic_write_text

Row = tuple[int, dict[str, float]]


class History:
    """A file with one line of JSON per `append`; lines of the same step make one row.

    Each line is handed to the operating system at once, so that it outlasts the process.
    """

    def __init__(self, path: Path):
        self.path = path

    def append(self, step: int, values: dict[str, float]) -> None:
        """Write a line with `values` at the end of the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(_line(step, values))

    def sync(self) -> None:
        """Force what is written to the disk (fsync), so that a power failure cannot take it."""
        if self.path.exists():
            with open(self.path, "rb+") as file:
                os.fsync(file.fileno())

    def rows(self) -> list[Row]:
        """Return the rows in the order of their steps; lines that are no row are skipped, such as one cut by a kill."""
        found: dict[int, dict[str, float]] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            try:
                values = json.loads(line)
            except ValueError:
                continue
            if isinstance(values, dict) and "step" in values:
                found.setdefault(values.pop("step"), {}).update(values)
        return sorted(found.items())

    def keep(self, last: int) -> list[Row]:
        """Discard what was logged after step `last`, and return the rows that stay."""
        rows = [(step, values) for step, values in self.rows() if step <= last]
        if self.path.exists():
            atomic_write_text(self.path, "".join(_line(*row) for row in rows))
        return rows


def _line(step: int, values: dict[str, float]) -> str:
    return json.dumps({"step": step, **values}) + "\n"
