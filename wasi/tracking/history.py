"""What a run has logged, in a file of its own: W&B's is made again from it after a kill or a lost network."""

import json
import os
from pathlib import Path

from wasi.atomic import atomic_write_text

Row = tuple[int, dict[str, float]]


class History:
    """A line per `append`, with the operating system as soon as it is written; lines of one step make one row."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, step: int, values: dict[str, float]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(_line(step, values))

    def sync(self) -> None:
        """See to it that a power failure cannot take what is written."""
        if self.path.exists():
            with open(self.path, "rb+") as file:
                os.fsync(file.fileno())

    def rows(self) -> list[Row]:
        """In the order of their steps; a last line that a kill has cut is left out."""
        found: dict[int, dict[str, float]] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            try:
                values = json.loads(line)
            except ValueError:
                continue
            found.setdefault(values.pop("step"), {}).update(values)
        return sorted(found.items())

    def keep(self, last: int) -> list[Row]:
        """Take back what was logged after step `last`; the rows that stay."""
        rows = [(step, values) for step, values in self.rows() if step <= last]
        if self.path.exists():
            atomic_write_text(self.path, "".join(_line(*row) for row in rows))
        return rows


def _line(step: int, values: dict[str, float]) -> str:
    return json.dumps({"step": step, **values}) + "\n"
