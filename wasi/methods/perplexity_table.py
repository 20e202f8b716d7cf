"""The measured table of a perplexity search: what each threshold costs each layer, and its JSON form."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path

from wasi.errors import UserError

OPTION = "rank.perplexity_table"


@dataclass(frozen=True)
class Candidate:
    """`epsilon` gives `ranks` (per call, per mode), a gradient error and stored elements (of all calls)."""

    epsilon: float
    ranks: list[tuple[int, ...]]
    perplexity: float
    elements: int


@dataclass(frozen=True)
class LayerTable:
    """One layer's input shapes per call, and its candidates by rising epsilon."""

    name: str
    shapes: list[tuple[int, ...]]
    candidates: list[Candidate]

    def at(self, epsilon: float | None) -> Candidate | None:
        return next((c for c in self.candidates if c.epsilon == epsilon), None)


def to_json(tables: Sequence[LayerTable]) -> list[dict]:
    return [asdict(table) for table in tables]


def read_tables(path: str) -> list[LayerTable]:
    """The tables in a `perplexity.json`.

    Raises:
        UserError: the file cannot be read or is something else.
    """
    try:
        layers = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))["layers"]
        return [_layer(layer) for layer in layers]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(OPTION, path, f"the perplexity.json of an earlier run ({type(error).__name__})") from error


def _layer(layer: dict) -> LayerTable:
    shapes = _tuples(layer["shapes"])
    candidates = [
        Candidate(float(c["epsilon"]), _tuples(c["ranks"]), float(c["perplexity"]), int(c["elements"]))
        for c in layer["candidates"]
    ]
    if not candidates:
        raise ValueError("a layer without candidates")
    for candidate in candidates:
        if [len(ranks) for ranks in candidate.ranks] != [len(shape) for shape in shapes]:
            raise ValueError("not one rank per mode of each call")
        if not 0 <= candidate.perplexity < inf or candidate.elements < 0:
            raise ValueError("costs that are no costs")
    return LayerTable(str(layer["name"]), shapes, candidates)


def _tuples(rows: list[list[int]]) -> list[tuple[int, ...]]:
    return [tuple(int(n) for n in row) for row in rows]
