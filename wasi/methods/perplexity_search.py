"""`rank.activation_selection=perplexity`: one threshold per layer, chosen jointly over all layers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil, floor, log10
from typing import Any

from torch import Tensor, nn

from wasi import file_names
from wasi.errors import UserError
from wasi.methods.knapsack import Choice, Option, Unreachable, in_order, least_memory, least_perplexity
from wasi.methods.perplexity import measure_perplexities
from wasi.methods.perplexity_table import OPTION, Candidate, LayerTable, read_tables

EPSILONS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_ELEMENTS_PER_MIB = 1024**2 // 4  # float32


@dataclass
class PerplexitySearch:
    """Minimises memory under a ceiling on the summed perplexity, or summed perplexity under a memory budget.

    Args:
        objective: what is minimised when neither bound is given, `memory` or `perplexity`. The bound on the other
            quantity is then its value with the same threshold, `uniform_epsilon`, in every layer.
        ceiling: largest summed perplexity; at most one of this and `budget_mib` may be given.
        budget_mib: largest sum of core and factor elements, in MiB of float32, at the calibration batch's size.
        table: path of a `perplexity.json` to use instead of measuring, or None.
        uniform_epsilon: see `objective`; it is a candidate of each layer then. `ActivationRanks` sets it.
        batch_mode: `whole` or `cut`, see `ActivationRanks`, which sets it.

    Raises:
        UserError: an unknown `objective`, or both bounds.
    """

    objective: str
    ceiling: float | None
    budget_mib: float | None
    table: str | None
    uniform_epsilon: float | None = None
    batch_mode: str = "whole"
    artifacts: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.objective not in ("memory", "perplexity"):
            raise UserError("method.activations.perplexity.objective", self.objective, "memory or perplexity")
        if self.ceiling is not None and self.budget_mib is not None:
            raise UserError("rank.memory_budget_mib", self.budget_mib, "null with rank.perplexity_ceiling given")

    def chosen(
        self, model: nn.Module, layers: Mapping[str, nn.Linear], batch: tuple[Tensor, Tensor]
    ) -> dict[str, tuple[LayerTable, Candidate]]:
        """Return layer name -> its table and the candidate chosen from it, and fill `artifacts`.

        Layers without an entry in the table, because they are never called, are left out.

        Raises:
            UserError: a bound cannot be met, or the table is of another model.
        """
        tables = self._tables(model, layers, batch)
        choice, bound = self._choose(tables)
        candidates = [table.candidates[i] for table, i in zip(tables, choice.indices, strict=True)]
        self.artifacts[file_names.PERPLEXITY] = {
            **bound,
            "batch_mode": self.batch_mode,
            "perplexity": choice.perplexity,
            "memory_mib": choice.memory / _ELEMENTS_PER_MIB,
            "chosen": {table.name: c.epsilon for table, c in zip(tables, candidates, strict=True)},
            "layers": [asdict(table) for table in tables],
        }
        found = {table.name: (table, c) for table, c in zip(tables, candidates, strict=True)}
        first = {id(layer): name for name, layer in reversed([*layers.items()])}  # tables name a shared module once
        return {name: found[first[id(layer)]] for name, layer in layers.items() if first[id(layer)] in found}

    def _tables(self, model, layers, batch) -> list[LayerTable]:
        """Return the tables read from `table`, or measured on `batch`."""
        if self.table is None:
            derives = self.ceiling is None and self.budget_mib is None
            uniform = {self.uniform_epsilon} if derives and self.uniform_epsilon is not None else set()
            return measure_perplexities(model, layers, batch, sorted({*EPSILONS, *uniform}), self.batch_mode)
        tables, batch_mode = read_tables(self.table)
        if batch_mode != self.batch_mode:
            raise UserError(OPTION, self.table, f"a table measured with rank.batch_mode={self.batch_mode}")
        if not tables or any(table.name not in layers for table in tables):
            there = ", ".join(layers)
            raise UserError(OPTION, self.table, f"a table of this model and scope; its layers are {there}")
        return tables

    def _choose(self, tables: Sequence[LayerTable]) -> tuple[Choice, dict[str, Any]]:
        """Return the optimal choice, and the bound and its origin as entries of the JSON file."""
        options = [[Option(c.elements, c.perplexity) for c in table.candidates] for table in tables]
        ceiling, budget, source = self.ceiling, None, "given"
        if self.budget_mib is not None:
            budget = floor(self.budget_mib * _ELEMENTS_PER_MIB)
        elif ceiling is None:
            source = f"uniform epsilon {self.uniform_epsilon}"
            uniform = [self._uniform(table) for table in tables]
            if self.objective == "memory":
                ceiling = in_order(c.perplexity for c in uniform)
            else:
                budget = sum(c.elements for c in uniform)
        try:
            if ceiling is not None:
                return least_memory(options, ceiling), {"perplexity_ceiling": ceiling, "bound": source}
            assert budget is not None
            choice = least_perplexity(options, budget)
            return choice, {"memory_budget_mib": budget / _ELEMENTS_PER_MIB, "bound": source}
        except Unreachable as error:
            raise self._refusal(error.least) from error

    def _uniform(self, table: LayerTable) -> Candidate:
        """Return the table's candidate at `uniform_epsilon`. Raises UserError where it has none."""
        candidate = table.at(self.uniform_epsilon)
        if candidate is None:
            there = ", ".join(f"{c.epsilon:g}" for c in table.candidates)
            allowed = f"one that the table holds ({there}), or give a bound"
            raise UserError("rank.activation_epsilon", self.uniform_epsilon, allowed)
        return candidate

    def _refusal(self, least: float) -> UserError:
        option, given = "rank.perplexity_ceiling", self.ceiling
        if self.budget_mib is not None:
            option, given, least = "rank.memory_budget_mib", self.budget_mib, least / _ELEMENTS_PER_MIB
        return UserError(option, given, f"{_upwards(least)} or more, the least possible here")


def _upwards(value: float) -> str:
    """Return `value` rounded up to 6 significant digits.

    >>> _upwards(0.0123456789), _upwards(1234567.1)
    ('0.0123457', '1234568')
    """
    if value == 0:
        return "0"
    digits = max(0, 5 - floor(log10(value)))
    return f"{ceil(value * 10**digits) / 10**digits:.{digits}f}"
