"""What every layer that replaces an `nn.Linear` tells about itself."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from wasi.layers.activation import TuckerState


class LowRankLayer(nn.Module):
    """A linear layer `[..., in_features] -> [..., out_features]` with low-rank weight, saved input or both.

    A layer with adapters also has `merged()`, an ordinary layer with the weight in effect (`Method.merged`).

    The class attribute `trains_bias` says whether the bias belongs to what the method trains, or to the rest of the
    model; `training_only` names submodules and buffers that inference has no use for. A class that has
    `output_needed`, true, can leave its output out, see `wasi.layers.graph_only`.

    Args:
        in_features, out_features: as of `nn.Linear`.
        state: bases of the saved input, shared by all calls of the layer; None saves inputs as they are.
    """

    trains_bias = True
    training_only: tuple[str, ...] = ("state",)
    weight: Tensor  # of layers with a dense one

    def __init__(self, in_features: int, out_features: int, state: TuckerState | None = None):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.state = state

    @property
    def weight_rank(self) -> int | None:
        """Columns kept of the weight, or None for a dense weight."""
        return None

    @property
    def activation_ranks(self) -> tuple[int, ...] | None:
        """Tucker ranks per mode of the saved input, or None for a dense one."""
        return None if self.state is None else self.state.ranks

    def weight_factors(self) -> tuple[Tensor, ...]:
        """The weight in effect (`O x I`), or the two matrices whose product it is."""
        return (self.weight,)

    def stored_elements(self, shape: Sequence[int]) -> int:
        """Elements kept for the backward pass of one call with an input of `shape`, as the paper counts."""
        return prod(shape) if self.state is None else self.state.stored_elements(shape)

    def kept(self, x: Tensor) -> tuple[int | None, list[Tensor | None]]:
        """Batch rank and bases (one per further mode) with which an input of the shape of `x` is saved; None = whole.

        A token mode of another size than its basis, as with another image size, is saved whole (None).
        """
        if self.state is None:
            return None, [None] * (x.dim() - 1)
        bases = self.state.bases
        fits = [b is not None and len(b) == size for b, size in zip(bases, x.shape[1:], strict=True)]
        return self.state.batch_rank, [b if fit else None for b, fit in zip(bases, fits, strict=True)]

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"weight_rank={self.weight_rank}, activation_ranks={self.activation_ranks}"
        )
