"""The tables of a perplexity search, which hold the costs of each threshold in each layer, and their JSON form."""

import json
from dataclasses import dataclass
from math import inf

from wasi.errors import UserError
from wasi.paths import expanded

OPTION = "rank.perplexity_table"


@dataclass(frozen=True)
class Candidate:
    """One threshold of a layer and its costs.

    Args:
        ranks: per call of the layer, one rank per mode of its input.
        perplexity: error of the weight gradient, see `wasi.methods.perplexity`.
        elements: stored elements of cores and factors, summed over the calls.
    """

    epsilon: float
    ranks: list[tuple[int, ...]]
    perplexity: float
    elements: int


@dataclass(frozen=True)
class LayerTable:
    """The candidates of one layer, by rising epsilon, and the shapes of its inputs, one per call."""

    name: str
    shapes: list[tuple[int, ...]]
    candidates: list[Candidate]

    def at(self, epsilon: float | None) -> Candidate | None:
        """Return the candidate of exactly this threshold, or None."""
        return next((c for c in self.candidates if c.epsilon == epsilon), None)


def read_tables(path: str) -> tuple[list[LayerTable], str]:
    """Return the tables of a `perplexity.json`, and the `rank.batch_mode` with which they were measured.

    Raises:
        UserError: the file cannot be read, or is no `perplexity.json`.
    """
    try:
        content = json.loads(expanded(path).read_text(encoding="utf-8"))
        return [_layer(layer) for layer in content["layers"]], str(content["batch_mode"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(OPTION, path, f"the perplexity.json of an earlier run ({type(error).__name__})") from error


def _layer(layer: dict) -> LayerTable:
    """Return a table from JSON content. Raises ValueError, KeyError or TypeError for content of another form."""
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
