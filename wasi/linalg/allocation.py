"""Ranks of several factored weights under one budget of parameters."""

from collections.abc import Sequence

import torch
from torch import Tensor

_WIDTH = 16  # see `rank_step`


def largest_rank(outputs: int, inputs: int) -> int:
    """The largest `K >= 1` at which factors `O x K` and `K x I` are together no larger than the dense `O x I`."""
    return max(1, outputs * inputs // (outputs + inputs))


def rank_step(largest: int) -> int:
    """How many directions at a time are given to a layer that may keep `largest`: 16 of 64 and more, else 1.

    A row of 16 float32 numbers fills whole vector registers (AVX2, AVX-512, NEON). A product whose inner matrix is 176
    wide takes a quarter less time than with 175 (`X R^T`, 2176 rows, 1536 inputs, two AVX-512 cores).
    """
    return _WIDTH if largest >= 4 * _WIDTH else 1


def allocate(
    damages: Sequence[Tensor], costs: Sequence[int], budget: int, steps: Sequence[int] | None = None
) -> list[int]:
    """Ranks `K_l >= 1` that make `sum_l sum_{k >= K_l} damages[l][k]` least at `sum_l K_l costs[l] <= budget`.

    Every layer starts at one step of directions; then the step with the largest damage per parameter is kept, and so
    on, until the next one does not fit. As a layer's damages never increase, no ranks that cost at most as much as the
    result, and are whole steps, do less damage (the greedy solution of a separable convex problem, Fox 1966).

    Args:
        damages: per layer, what leaving out each of its directions adds to the error, non-increasing and not
            negative, in one unit for all layers; as many as the layer may keep, at least 1.
        costs: per layer, the parameters of one direction, `O + I`.
        budget: parameters in all.
        steps: per layer, the number that its rank is a multiple of; None = 1. Directions beyond the last multiple
            are never kept.

    Raises:
        ValueError: the budget does not reach for one step of every layer together.
    """
    steps = [1] * len(costs) if steps is None else steps
    damages = [_in_steps(d, step) for d, step in zip(damages, steps, strict=True)]
    costs = [cost * step for cost, step in zip(costs, steps, strict=True)]
    left = budget - sum(costs)
    if left < 0:
        raise ValueError(f"the least rank of every layer takes {sum(costs)} parameters, more than {budget}")
    layer = torch.cat([torch.full((len(d) - 1,), index) for index, d in enumerate(damages)])
    worth = torch.cat([d[1:].double().cpu() / cost for d, cost in zip(damages, costs, strict=True)])
    order = layer[worth.argsort(descending=True, stable=True)]  # within a layer, the order of its directions
    kept = order[torch.tensor(costs)[order].cumsum(0) <= left]
    counts = (1 + kept.bincount(minlength=len(costs))).tolist()
    return [count * step for count, step in zip(counts, steps, strict=True)]


def _in_steps(damages: Tensor, step: int) -> Tensor:
    return damages[: len(damages) // step * step].view(-1, step).sum(1)
