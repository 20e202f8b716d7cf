"""What every layer that replaces an `nn.Linear` tells about itself."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from wasi.layers.activation import TuckerState
from wasi.layers.recompute import CallCounter


class LowRankLayer(nn.Module):
    """A linear layer `[..., in_features] -> [..., out_features]` with low-rank weight, saved input or both.

    `trains_bias` says whether the bias belongs to what the method trains, or to the rest of the model.
    `has_factors`, whether `weight_factors` are two matrices.
    `states` hold one `TuckerState` per call in a forward pass; none means that the input is saved as it is.
    """

    trains_bias = True
    has_factors = False

    def __init__(self, in_features: int, out_features: int, states: Sequence[TuckerState] = ()):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.states = nn.ModuleList(states)
        self.counter = CallCounter(max(len(states), 1))

    @property
    def weight_rank(self) -> int | None:
        """Columns kept of the weight, or None for a dense weight."""
        return None

    @property
    def activation_ranks(self) -> tuple[int, ...] | None:
        """Tucker ranks per mode of the (first call's) saved input, or None for a dense one."""
        return self.states[0].ranks if self.states else None

    @property
    def retracted(self) -> nn.Parameter | None:
        """What `retract_` brings back to its manifold after an optimizer step; None where there is nothing to do.

        Layers that share it are retracted once.
        """
        return None

    def retract_(self) -> None:
        """After an optimizer step on `retracted`, and what goes with it."""

    def weight_factors(self) -> tuple[Tensor, ...]:
        """The weight in effect (`O x I`), or the two matrices whose product it is."""
        return (self.weight,)

    def stored_elements(self, shape: Sequence[int]) -> int:
        """Elements kept for the backward pass of one call with an input of `shape`, as the paper counts."""
        return self.states[0].stored_elements(shape) if self.states else prod(shape)

    def next_state(self) -> TuckerState | None:
        """This call's, or None where inputs are saved as they are."""
        return self.states[self.counter.next()] if self.states else None

    def advance(self) -> None:
        """End of an optimizer step: activation bases move on, calls are counted from the start."""
        self.counter.position = 0
        for state in self.states:
            state.advance()

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"weight_rank={self.weight_rank}, activation_ranks={self.activation_ranks}"
        )
