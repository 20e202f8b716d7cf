"""The subspace in which one linear layer's input is kept for the backward pass (DESIGN 3.5)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wasi.layers.batch_mode import BatchMode
from wasi.layers.recompute import is_repeat
from wasi.linalg import tucker
from wasi.linalg.orthonormal import orthonormalize
from wasi.linalg.rank import explained_rank
from wasi.linalg.spectrum import leading_subspace


def unfold(x: Tensor, mode: int) -> Tensor:
    """Mode-`m` unfolding with the mode last: `[prod(other modes), d_m]`."""
    return x.movedim(mode, -1).reshape(-1, x.shape[mode])


class TuckerState(nn.Module):
    """Bases of the token and feature modes of an activation `[B, *tokens, I]`, tracked from step to step.

    Within an optimizer step the bases stand still; `shrink` projects on them and gathers what one
    subspace iteration needs, `A_m (A_m^T U_m)`, and `advance` orthonormalizes it into the bases of the next
    step. So recomputation, accumulation and evaluation see one subspace, and every part of a step, however
    it is chunked, counts once. The batch mode belongs to this batch alone and is decomposed exactly.

    Bases turn slowly, so with `update_gap` above 1 this happens in one step of so many only (1 is the paper's).

    Args:
        example: an activation of the shape to come, from which the bases start (HOSVD).
        ranks: one rank per mode, the batch mode first; a rank at or above the mode's size keeps it whole.
        update_gap: steps from one move of the bases to the next; phase: shifts which steps these are, so that
            the layers of a model can take turns.
    """

    def __init__(self, example: Tensor, ranks: Sequence[int], update_gap: int = 1, phase: int = 0):
        super().__init__()
        if len(ranks) != example.dim():
            raise ValueError(f"{len(ranks)} ranks for {example.dim()} modes")
        self.batch_rank = ranks[0]
        self.token_ranks = tuple(ranks[1:])
        for mode in range(1, example.dim()):
            self.register_buffer(f"basis_{mode}", self._start(example.detach(), mode))
        self.update_gap = update_gap
        self.register_buffer("age", torch.tensor(phase))
        self.register_buffer("moves", torch.tensor(0))  # how often the feature basis has changed
        self._gathered: dict[int, Tensor] = {}
        self._rows: dict[int, int] = {}

    def _start(self, x: Tensor, mode: int) -> Tensor | None:
        rank, size = self.token_ranks[mode - 1], x.shape[mode]
        return leading_subspace(unfold(x, mode), None, rank).contiguous() if rank < size else None

    @property
    def ranks(self) -> tuple[int, ...]:
        """Tucker ranks per mode, the batch mode first."""
        return (self.batch_rank, *self.token_ranks)

    def basis(self, mode: int) -> Tensor | None:
        return getattr(self, f"basis_{mode}")

    @property
    def feature_basis(self) -> Tensor | None:
        """`I x r`, or None while features are kept whole."""
        return self.basis(len(self.token_ranks))

    def compress(self, x: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Core and factors of `x`; in a first (not repeated) forward pass also gathers for `advance`."""
        core, factors, batch_mode = self.shrink(x)
        if batch_mode is not None:
            core, factors[0] = batch_mode.read()
        return core, factors

    @torch.no_grad()
    def shrink(
        self, x: Tensor, features: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor | None], BatchMode | None]:
        """`compress`, but for the batch mode: of `core` and `factors[0]` it gives what is to be read later.

        Sequentially truncated: token and feature modes in the order that costs least, each on what the one
        before left, then the batch mode. None where that is kept whole.

        Args:
            features: `x` times `first_basis(x)`, where the caller has it already.
        """
        gather = not is_repeat() and int(self.age) % self.update_gap == 0
        factors: list[Tensor | None] = [None] * x.dim()
        core = x
        for mode in self._order(x):
            basis, small = self._basis_for(core, mode + 1), features
            if core is not x or small is None:
                small = tucker.project(core, basis, mode + 1)
            if gather:
                self._gather(mode + 1, tucker.iterate(core, small, mode + 1), small.numel() // basis.shape[1])
            core, factors[mode + 1] = small, basis
        return core, factors, BatchMode(core, self.batch_rank) if self.batch_rank < len(core) else None

    def first_basis(self, x: Tensor) -> Tensor | None:
        """The feature basis (`I x r`), where `shrink` begins with it."""
        order = self._order(x)
        features = x.dim() - 1
        return self._basis_for(x, features) if order and order[0] == features - 1 else None

    def _order(self, x: Tensor) -> tuple[int, ...]:
        return tucker.truncation_order(tuple(x.shape[1:]), self.token_ranks)

    def _basis_for(self, x: Tensor, mode: int) -> Tensor:
        basis = self.basis(mode)
        if basis is None or basis.shape[0] != x.shape[mode]:  # another image size than the bases were made for
            basis = self._start(x, mode)
            self._move(mode, basis)
        return basis

    def _move(self, mode: int, basis: Tensor) -> None:
        # Laid out as a checkpoint is loaded, or a resumed run would differ in its last bits.
        setattr(self, f"basis_{mode}", basis.contiguous())
        self.moves += mode == len(self.token_ranks)

    def _gather(self, mode: int, product: Tensor, rows: int) -> None:
        before = self._gathered.get(mode)
        if before is None or before.shape != product.shape:
            self._gathered[mode], self._rows[mode] = product, rows
        else:
            before += product
            self._rows[mode] += rows

    @torch.no_grad()
    def advance(self) -> None:
        """One subspace iteration per mode from what the step's forward passes gathered.

        A basis stays where the step had fewer rows than the basis has columns, as in a last batch of one
        image: they cannot tell so many directions.
        """
        for mode, product in self._gathered.items():
            if self._rows[mode] >= product.shape[1]:
                self._move(mode, orthonormalize(product))
        self._gathered.clear()
        self.age += 1

    def stored_elements(self, shape: Sequence[int]) -> int:
        """Elements of core and factors for an input of `shape`, as the paper counts them."""
        return tucker.stored_elements(shape, self.ranks)


def epsilon_ranks(x: Tensor, epsilon: float) -> tuple[int, ...]:
    """Ranks per mode that explain `epsilon` of the variance of each unfolding of `x`."""
    return tuple(_mode_rank(unfold(x.detach(), mode), epsilon) for mode in range(x.dim()))


def _mode_rank(rows: Tensor, epsilon: float) -> int:
    if epsilon >= 1:
        return rows.shape[1]
    if min(rows.shape) > 1024:
        return leading_subspace(rows, epsilon, None).shape[1]
    wide = rows.double()
    gram = wide.mT @ wide if wide.shape[1] <= wide.shape[0] else wide @ wide.mT
    return explained_rank(torch.linalg.eigvalsh(gram).flip(0).clamp_min(0), epsilon)
