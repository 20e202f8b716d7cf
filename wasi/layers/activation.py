"""The subspace in which one linear layer's input is kept for the backward pass (activation subspace iteration)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wasi.linalg import tucker
from wasi.linalg.orthonormal import in_batches, independent_columns
from wasi.linalg.spectrum import mode_rank, mode_subspace


class TuckerState(nn.Module):
    """Bases `U_m` (`d_m x r_m`, orthonormal) of the token and feature modes of an activation `[B, *tokens, I]`.

    The bases are constant during an optimizer step and updated at its end by one warm-started subspace iteration,
    `U_m <- orth(A_m^T A_m U_m)`, where `A_m` is the unfolding of all inputs of that step, projected on the bases of the
    modes that `wasi.linalg.tucker.compress` takes before `m`. The product `A_m^T A_m U_m`
    is half the gradient of the energy `||A_m U_m||_F^2` that the basis captures, and it is accumulated like one: the
    layer's autograd Function returns it as the gradient of `U_m`. So micro-batches, chunks and calls add up, what a
    checkpointed block repeats counts once, and a graph that is dropped does not count.

    The batch mode is kept whole unless `ranks` cut it: samples are new in every batch, so nothing can be tracked.

    Args:
        example: an activation of the shape to come, from which the bases start (HOSVD).
        ranks: one rank per mode, the batch mode first; a rank at or above the mode's size keeps it whole, of an input
            of any size.
        update_gap: steps from one update of the bases to the next (1 is the paper's).
        phase: shifts which steps these are, so that the layers of a model can take turns.

    Raises:
        ValueError: another number of ranks than modes, or a rank above the number of rows of that mode's unfolding.
    """

    age: Tensor

    def __init__(self, example: Tensor, ranks: Sequence[int], update_gap: int = 1, phase: int = 0):
        super().__init__()
        if len(ranks) != example.dim():
            raise ValueError(f"{len(ranks)} ranks for {example.dim()} modes")
        self.ranks, self.update_gap = tuple(ranks), update_gap
        self.batch_rank = ranks[0] if ranks[0] < len(example) else None  # None: kept whole
        for mode, rank in enumerate(self.ranks[1:], 1):
            is_cut = rank < example.shape[mode]
            self.register_buffer(f"basis_{mode}", mode_subspace(example.detach(), mode, rank) if is_cut else None)
        self.register_buffer("age", torch.tensor(phase))
        self._steps = phase  # in `age` when the state is saved: on an accelerator counting there takes time
        self._watch()

    @property
    def bases(self) -> list[Tensor | None]:
        """One basis per token mode and the feature mode, None where the mode is kept whole."""
        return [getattr(self, f"basis_{mode}") for mode in range(1, len(self.ranks))]

    @property
    def feature_basis(self) -> Tensor | None:
        """`U` of the feature mode, `I x r`, or None while features are kept whole."""
        return self.bases[-1]

    def compress(self, x: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Core and factors of `x`, see `wasi.linalg.tucker.compress`; nothing is accumulated for the next update."""
        core, factors, _ = tucker.compress(x, self.bases, self.batch_rank, [False] * (x.dim() - 1))
        return core, factors

    def advance(self) -> bool:
        """`advance` of this state alone."""
        return advance([self])

    def count_step(self) -> None:
        """Count a step, at its end; in the next one autograd watches the bases if they are due after it."""
        self._steps += 1
        self._watch()

    def _watch(self) -> None:
        """Have autograd accumulate `A_m^T A_m U_m` in `U_m.grad`, in steps at whose end an update is due only."""
        due = self._steps % self.update_gap == 0
        for basis in self.bases:
            if basis is not None:
                basis.requires_grad_(due)

    def _save_to_state_dict(self, *args, **kwargs) -> None:
        self.age.fill_(self._steps)
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._steps = int(self.age)
        self._watch()

    def stored_elements(self, shape: Sequence[int]) -> int:
        """Elements of core and factors for an input of `shape`, as the paper counts them."""
        batch = shape[0] if self.batch_rank is None else self.batch_rank
        return tucker.stored_elements(shape, (batch, *self.ranks[1:]))


@torch.no_grad()
def advance(states: Sequence[TuckerState]) -> bool:
    """Update the bases of states at the end of an optimizer step, where one is due, by a subspace iteration per mode.

    A basis is left as it is where the step's inputs have fewer directions than it, as a last batch of one image.

    Returns:
        Whether a basis changed; on an accelerator, where to look needs a synchronisation, whether one was due.
    """
    bases = [basis for state in states for basis in state.bases if basis is not None]
    due = [basis for basis in bases if basis.grad is not None]
    iterates = [basis.grad for basis in bases if basis.grad is not None]
    moved = False
    for number, found in in_batches(independent_columns, iterates, due):
        if found is not due[number]:
            due[number].copy_(found)
            moved = True
        due[number].grad = None
    for state in states:
        state.count_step()
    return moved


def epsilon_ranks(
    x: Tensor, epsilon: float, batch_mode: str, token_epsilon: float | None = None
) -> tuple[int, ...]:
    """Ranks per mode that explain `epsilon` of the variance of each unfolding of `x`.

    Args:
        batch_mode: `whole` keeps the first mode as it is, `cut` gives it a rank like the others.
        token_epsilon: in place of `epsilon` for the modes between the first and the last.
    """
    x = x.detach()
    last = x.dim() - 1
    of_tokens = epsilon if token_epsilon is None else token_epsilon
    ranks = [mode_rank(x, mode, epsilon if mode == last else of_tokens) for mode in range(1, x.dim())]
    return (x.shape[0] if batch_mode == "whole" else mode_rank(x, 0, epsilon), *ranks)
