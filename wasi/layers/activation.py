"""Activation subspace iteration (ASI): the bases in which one linear layer saves its input for the backward pass."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from wasi.linalg import tucker
from wasi.linalg.batched import in_batches
from wasi.linalg.orthonormal import independent_columns
from wasi.linalg.spectrum import mode_rank, mode_subspace


class TuckerState(nn.Module):
    """Bases `U_m` (`d_m x r_m`, orthonormal) of the token and feature modes of an activation `[B, *tokens, I]`.

    The bases are constant during an optimizer step and updated at its end by one warm-started subspace iteration,
    `U_m <- orth(A_m^T A_m U_m)`. `A_m` (mode `m` last, `d_m` columns) is the unfolding of all inputs of that step,
    projected on the bases of the modes that `wasi.linalg.tucker.compress` projects before `m`. The product
    `A_m^T A_m U_m` is half the gradient of the energy `||A_m U_m||_F^2` that the basis captures, and autograd
    accumulates it in `U_m.grad`: the layer's autograd Function returns it as the gradient of `U_m`. So micro-batches,
    chunks and repeated calls of a layer add up, the recomputation of a checkpointed block does not count twice, and a
    forward pass without a backward pass does not count.

    The batch mode has no basis that is tracked, since every batch has new samples. It is kept whole, or, where
    `ranks[0]` is below the batch size of `example`, truncated anew in each forward pass (`rank.batch_mode=cut`).

    Args:
        example: an activation of the expected shape; the bases start as the leading singular vectors of its
            unfoldings (HOSVD).
        ranks: one rank per mode, the batch mode first. A rank at or above the mode's size in `example` keeps that mode
            whole, also in inputs of another size.
        update_gap: optimizer steps between two updates of the bases (1 in the paper).
        phase: initial value of the step counter; with different phases the layers of a model update in turn.

    Raises:
        ValueError: there is not one rank per mode, or a rank exceeds the number of rows of that mode's unfolding.
    """

    age: Tensor

    def __init__(self, example: Tensor, ranks: Sequence[int], update_gap: int = 1, phase: int = 0):
        super().__init__()
        if len(ranks) != example.dim():
            raise ValueError(f"{len(ranks)} ranks for {example.dim()} modes")
        self.ranks = tuple(min(rank, size) for rank, size in zip(ranks, example.shape, strict=True))
        self.update_gap = update_gap
        self.batch_rank = ranks[0] if ranks[0] < len(example) else None  # None: the batch mode is kept whole
        for mode, rank in enumerate(self.ranks[1:], 1):  # counted from 0: `basis_1` is `U_2` of the equations
            is_cut = rank < example.shape[mode]
            self.register_buffer(f"basis_{mode}", mode_subspace(example.detach(), mode, rank) if is_cut else None)
        self.register_buffer("age", torch.tensor(phase))
        self.iterate_dtype = torch.float32  # in which the last forward pass computed `A_m^T A_m U_m`
        self._steps = phase  # copied to `age` when the state is saved: a counter on an accelerator costs time per step
        self._watch()

    @property
    def bases(self) -> list[Tensor | None]:
        """The basis of each token mode and, last, of the feature mode; None for a mode that is kept whole."""
        return [getattr(self, f"basis_{mode}") for mode in range(1, len(self.ranks))]

    @property
    def feature_basis(self) -> Tensor | None:
        """The basis `U` (`I x r`) of the feature mode, or None if that mode is kept whole."""
        return self.bases[-1]

    def compress(self, x: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Return core and factors of `x` (see `wasi.linalg.tucker.compress`) without accumulating for an update."""
        core, factors, _ = tucker.compress(x, self.bases, self.batch_rank, [False] * (x.dim() - 1))
        return core, factors

    def count_step(self) -> None:
        """Count an optimizer step at its end, and let the next one accumulate if the bases are updated after it."""
        self._steps += 1
        self._watch()

    def _watch(self) -> None:
        """Let autograd accumulate `A_m^T A_m U_m` in `U_m.grad` only in steps that end with an update of the bases."""
        due = self._steps % self.update_gap == 0
        for basis in self.bases:
            if basis is not None:
                basis.requires_grad_(due)

    def _apply(self, fn, recurse=True):
        """Move or convert the bases and keep them leaves; autograd would record the conversion of a buffer."""
        with torch.no_grad():
            super()._apply(fn, recurse)
        self._watch()
        return self

    def _save_to_state_dict(self, *args, **kwargs) -> None:
        self.age.fill_(self._steps)
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._steps = int(self.age)
        self._watch()

    def stored_elements(self, shape: Sequence[int]) -> int:
        """Return the number of elements of core and factors for an input of `shape`, as the paper counts them."""
        batch = shape[0] if self.batch_rank is None else self.batch_rank
        return tucker.stored_elements(shape, (batch, *self.ranks[1:]))


@torch.no_grad()
def advance(states: Sequence[TuckerState]) -> None:
    """End an optimizer step: update the bases that are due by one subspace iteration each, and count the step.

    A basis keeps its value where the inputs of the step, up to rounding, span fewer directions than it has columns, as
    those of a last batch of one image may.
    """
    bases = [basis for state in states for basis in state.bases if basis is not None]
    due = [basis for basis in bases if basis.grad is not None]
    iterates = [basis.grad for basis in bases if basis.grad is not None]
    eps = max((torch.finfo(state.iterate_dtype).eps for state in states), default=0.0)
    for numbers, found in in_batches(partial(independent_columns, eps=eps), iterates, due):
        torch._foreach_copy_([due[number] for number in numbers], found)
    for basis in due:
        basis.grad = None
    for state in states:
        state.count_step()


def epsilon_ranks(
    x: Tensor, epsilon: float, batch_mode: str, token_epsilon: float | None = None
) -> tuple[int, ...]:
    """Return for each mode the least rank that explains `epsilon` of the unfolding's squared Frobenius norm.

    Args:
        x: an activation `[B, *tokens, I]`.
        batch_mode: `whole` gives the batch mode its full size, `cut` a rank by the same rule.
        token_epsilon: used in place of `epsilon` for the token modes; None uses `epsilon`.
    """
    x = x.detach()
    last = x.dim() - 1
    of_tokens = epsilon if token_epsilon is None else token_epsilon
    ranks = [mode_rank(x, mode, epsilon if mode == last else of_tokens) for mode in range(1, x.dim())]
    return (x.shape[0] if batch_mode == "whole" else mode_rank(x, 0, epsilon), *ranks)
