"""The common base class of all layers that replace an `nn.Linear`."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from wasi.layers.activation import TuckerState
from wasi.layers.autocast import autocast_dtype


class LowRankLayer(nn.Module):
    """A linear layer `[..., I] -> [..., O]` with a low-rank weight, a low-rank saved input, or both.

    Class attributes: `trains_bias`, whether the bias is trained even where only the method's own parameters are
    (`freeze_rest`); `training_only`, the names of submodules and buffers that inference does not use. A subclass that
    defines `output_needed = True` can skip computing its output, see `wasi.layers.skipped_output`.

    Args:
        in_features, out_features: `I` and `O`.
        state: bases of the saved input, shared by all calls of the layer; None saves inputs unchanged.
    """

    trains_bias = True
    training_only: tuple[str, ...] = ("state",)
    weight: Tensor  # only in layers with a dense weight

    def __init__(self, in_features: int, out_features: int, state: TuckerState | None = None):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.state = state

    @property
    def weight_rank(self) -> int | None:
        """The rank `K` of the weight, or None for a dense weight."""
        return None

    @property
    def activation_ranks(self) -> tuple[int, ...] | None:
        """The Tucker rank of the saved input in each mode, the batch mode first; None if it is saved unchanged."""
        return None if self.state is None else self.state.ranks

    def weight_factors(self) -> tuple[Tensor, ...]:
        """Return the effective weight: one matrix (`O x I`), or the two factors (`O x K`, `K x I`) of it."""
        return (self.weight,)

    def merged(self) -> nn.Module | None:
        """Return an equal layer with adapters merged into the weight (see `Method.merged`); None without adapters."""
        return None

    def stored_elements(self, shape: Sequence[int]) -> int:
        """Return how many elements a call with an input of `shape` saves for the backward pass, as the paper counts."""
        return prod(shape) if self.state is None else self.state.stored_elements(shape)

    def begin_saving(self, x: Tensor) -> tuple[int | None, list[Tensor | None]]:
        """Return the batch rank and the bases (token modes, then features) in which `x` is saved; None: kept whole.

        A token mode whose size does not match its basis, as with another image size, is kept whole. The call also sets
        `TuckerState.iterate_dtype`, the type in which this forward pass computes, for the next update of the bases.

        Raises:
            ValueError: under autocast to float16, whose range the products that update the bases exceed.
        """
        if self.state is None:
            return None, [None] * (x.dim() - 1)
        self.state.iterate_dtype = autocast_dtype(x)
        if self.state.iterate_dtype == torch.float16:
            raise ValueError("torch.autocast to float16: a layer with a low-rank saved input needs bfloat16")
        bases = self.state.bases
        if x.dim() != 1 + len(bases):
            raise ValueError(f"an input of {x.dim()} dimensions to a layer with bases for {1 + len(bases)}")
        fits = [b is not None and len(b) == size for b, size in zip(bases, x.shape[1:], strict=True)]
        return self.state.batch_rank, [b if fit else None for b, fit in zip(bases, fits, strict=True)]

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"weight_rank={self.weight_rank}, activation_ranks={self.activation_ranks}"
        )
