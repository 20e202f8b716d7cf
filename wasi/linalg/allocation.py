"""How a number of parameters is best shared out among the ranks of several factored weights."""

from collections.abc import Sequence

import torch
from torch import Tensor


def largest_rank(outputs: int, inputs: int) -> int:
    """The largest `K >= 1` at which factors `O x K` and `K x I` are together no larger than the dense `O x I`."""
    return max(1, outputs * inputs // (outputs + inputs))


def allocate(damages: Sequence[Tensor], costs: Sequence[int], budget: int) -> list[int]:
    """Ranks `K_l >= 1` that make `sum_l sum_{k >= K_l} damages[l][k]` least at `sum_l K_l costs[l] <= budget`.

    Every layer starts at rank 1; then the direction with the largest damage per parameter is kept, and so on,
    until the next one does not fit. As a layer's damages never increase, no ranks that cost at most as much as the
    result do less damage (the greedy solution of a separable convex problem, Fox 1966).

    Args:
        damages: per layer, what leaving out each of its directions adds to the error, non-increasing and not
            negative, in one unit for all layers; as many as the layer may keep, at least 1.
        costs: per layer, the parameters of one direction, `O + I`.
        budget: parameters in all.

    Raises:
        ValueError: the budget is below rank 1 for every layer.
    """
    left = budget - sum(costs)
    if left < 0:
        raise ValueError(f"rank 1 for every layer takes {sum(costs)} parameters, more than {budget}")
    layer = torch.cat([torch.full((len(d) - 1,), index) for index, d in enumerate(damages)])
    worth = torch.cat([d[1:].double().cpu() / cost for d, cost in zip(damages, costs, strict=True)])
    order = layer[worth.argsort(descending=True, stable=True)]  # within a layer, the order of its directions
    kept = order[torch.tensor(costs)[order].cumsum(0) <= left]
    return (1 + kept.bincount(minlength=len(costs))).tolist()
