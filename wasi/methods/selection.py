"""The choice of Tucker ranks for saved inputs, before training, and the initial bases."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wasi.config.validate import check_option
from wasi.errors import UserError
from wasi.layers.activation import TuckerState, epsilon_ranks
from wasi.methods.calibration import checked, observe_inputs, refusing_undecomposable
from wasi.methods.perplexity_search import PerplexitySearch
from wasi.methods.perplexity_table import OPTION as TABLE

log = logging.getLogger(__name__)

Ranks = tuple[int, ...]
Batch = tuple[Tensor, Tensor]
Choose = Callable[[str, Tensor], Ranks]  # layer, its input -> one rank per mode


@dataclass
class ActivationRanks:
    """Chooses the Tucker ranks of the inputs that linear layers save, on one calibration batch.

    Args:
        selection: `epsilon` (explained variance per mode), `fixed`, or `perplexity` (a threshold per layer).
        epsilon: threshold of explained variance for `epsilon`, and the uniform one of the perplexity search.
        ranks: for `fixed`, one rank per mode of the layers' inputs, the batch mode first.
        perplexity: the search for `perplexity`.
        update_gap: steps between updates of a basis; the layers take turns.
        batch_mode: `whole` keeps the batch mode at full rank; `cut`, as in the paper, gives it a rank like the other
            modes. Has no effect on `fixed`, whose first rank decides.
        token_epsilon: with `epsilon`, the threshold of the token modes; None means `epsilon`.

    Raises:
        UserError: an unknown `selection`, one without its option, or an option outside its range.
    """

    selection: str
    epsilon: float
    ranks: list[int] | None = None
    perplexity: PerplexitySearch | None = None
    update_gap: int = 1
    batch_mode: str = "whole"
    token_epsilon: float | None = None

    def __post_init__(self) -> None:
        needs = {"epsilon": self.epsilon, "fixed": self.ranks, "perplexity": self.perplexity}
        if needs.get(self.selection) is None:
            allowed = "epsilon, fixed or perplexity, with its options"
            raise UserError("rank.activation_selection", self.selection, allowed)
        if self.epsilon is not None:
            check_option("rank.activation_epsilon", self.epsilon)
        check_option("rank.token_epsilon", self.token_epsilon)
        check_option("rank.activation_ranks", self.ranks and list(self.ranks))
        check_option("rank.basis_update_gap", self.update_gap)
        check_option("rank.batch_mode", self.batch_mode)
        if self.perplexity is not None:
            self.perplexity.uniform_epsilon = self.epsilon
            self.perplexity.batch_mode = self.batch_mode

    @property
    def artifacts(self) -> dict[str, Any]:
        """File name -> JSON content to write beside the result: the perplexity search's tables and choice."""
        return self.perplexity.artifacts if self.perplexity else {}

    def states(
        self, model: nn.Module, layers: Mapping[str, nn.Linear], batches: Iterable[Batch]
    ) -> dict[str, TuckerState]:
        """Return one state per layer, with bases from its first call on the first of `batches`.

        Layers that are never called are left out.

        Raises:
            UserError: `ranks` does not fit the inputs, an input is zero or not finite, or the perplexity search fails.
        """
        states: dict[str, TuckerState] = {}
        shapes: list[torch.Size] = []
        batch = next(checked(batches))

        def observe(name: str, x: Tensor) -> None:
            if name not in states:
                shapes.append(x.shape)
                with refusing_undecomposable(name):
                    states[name] = TuckerState(x, choose(name, x), self.update_gap, self._phase(len(states)))

        choose = self._chooser(model, layers, batch)
        observe_inputs(model, layers, [batch], observe)
        if self.selection == "fixed":
            self._warn_oversized_ranks(shapes)
        return states

    @property
    def _fixed_ranks(self) -> list[int]:
        assert self.ranks is not None  # with `fixed`
        return list(self.ranks)

    def _warn_oversized_ranks(self, shapes: Sequence[torch.Size]) -> None:
        """Warn about a fixed rank above the mode's size in every layer: it compresses nothing, probably by mistake."""
        for mode, (rank, sizes) in enumerate(zip(self._fixed_ranks, zip(*shapes, strict=True), strict=True), 1):
            if rank > max(sizes):
                log.warning(
                    "rank.activation_ranks=%s: mode %d has at most %d in every layer, so %d keeps it whole",
                    self._fixed_ranks, mode, max(sizes), rank,
                )  # fmt: skip

    def _phase(self, index: int) -> int:
        """Return the step offset of a layer's basis updates, for the layer of this index.

        Every `update_gap` successive layers have distinct offsets. Each such group starts one offset later than the
        one before, so that corresponding layers of successive blocks do not share an offset.
        """
        return (index + index // self.update_gap) % self.update_gap

    def _chooser(self, model: nn.Module, layers: Mapping[str, nn.Linear], batch: Batch) -> Choose:
        """Return the function that chooses a layer's ranks from its name and input."""
        if self.selection == "epsilon":
            return lambda name, x: epsilon_ranks(x, self.epsilon, self.batch_mode, self.token_epsilon)
        if self.selection == "perplexity" and self.perplexity is not None:
            return self._searched(self.perplexity, model, layers, batch)
        return self._fixed

    def _fixed(self, name: str, x: Tensor) -> Ranks:
        """Return the given ranks; UserError where `x` has another number of modes, or too few rows for a basis."""
        if len(self._fixed_ranks) != x.dim():
            modes = "[b,n,i]" if x.dim() == 3 else "[b,h,w,i]" if x.dim() == 4 else f"{x.dim()} ranks"
            raise UserError("rank.activation_ranks", self._fixed_ranks, f"{modes}, one rank per mode of this model")
        rows = x.numel()
        for rank, size in list(zip(self._fixed_ranks, x.shape, strict=True))[1:]:
            if rank < size and rank > rows // size:
                allowed = f"at most {rows // size} where {name}'s input has {size}, from one calibration batch"
                raise UserError("rank.activation_ranks", self._fixed_ranks, allowed)
        return tuple(self._fixed_ranks)

    @staticmethod
    def _searched(
        search: PerplexitySearch, model: nn.Module, layers: Mapping[str, nn.Linear], batch: Batch
    ) -> Choose:
        chosen = search.chosen(model, layers, batch)

        def choose(name: str, x: Tensor) -> Ranks:
            found = chosen.get(name)
            if found is None or found[0].shapes[:1] != [tuple(x.shape)]:
                seen = f"inputs of {'x'.join(map(str, x.shape))} to {name}"
                raise UserError(TABLE, search.table, f"a table of this model and batch size, with {seen}")
            return found[1].ranks[0]

        return choose
