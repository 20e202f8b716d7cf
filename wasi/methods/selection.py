"""Tucker ranks of the saved inputs, fixed before training, and the bases they start from (DESIGN 3.5)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from wasi.errors import UserError
from wasi.layers.activation import TuckerState, epsilon_ranks
from wasi.methods.calibration import observe_inputs

Ranks = tuple[int, ...]


@dataclass
class ActivationRanks:
    """How ranks are chosen.

    Args:
        selection: `epsilon` (explained variance per mode of a calibration batch) or `fixed`.
        epsilon: threshold for `epsilon`.
        ranks: for `fixed`, one rank per mode of the layers' inputs, the batch mode first.
    """

    selection: str
    epsilon: float
    ranks: list[int] | None

    def states(
        self, model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[tuple[Tensor, Tensor]]
    ) -> dict[str, list[TuckerState]]:
        """One state per layer and call, with bases from the first of `batches`."""
        states: dict[str, list[TuckerState]] = {name: [] for name in layers}

        def see(name: str, x: Tensor) -> None:
            try:
                states[name].append(TuckerState(x, self._choose(x)))
            except ValueError as error:
                raise UserError("model.weights", f"({name})", f"one whose activations can be decomposed: {error}") from error

        observe_inputs(model, layers, [next(iter(batches))], see)
        return states

    def _choose(self, x: Tensor) -> Ranks:
        if self.selection == "epsilon":
            return epsilon_ranks(x, self.epsilon)
        if len(self.ranks) != x.dim():
            modes = "[b,n,i]" if x.dim() == 3 else "[b,h,w,i]" if x.dim() == 4 else f"{x.dim()} ranks"
            raise UserError("rank.activation_ranks", list(self.ranks), f"{modes}, one rank per mode of this model")
        return tuple(self.ranks)
