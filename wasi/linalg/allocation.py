"""Ranks of several factored weights under a common parameter budget."""

from collections.abc import Sequence

import torch
from torch import Tensor

_WIDTH = 16  # see `rank_step`


def largest_rank(outputs: int, inputs: int) -> int:
    """Return the largest `K` at which factors `O x K` and `K x I` have no more parameters than `O x I`; at least 1."""
    return max(1, outputs * inputs // (outputs + inputs))


def rank_step(largest: int) -> int:
    """Return the step in which a layer's rank is allocated: 16 if its rank may reach `largest >= 64`, else 1.

    16 float32 numbers fill whole vector registers (AVX2, AVX-512, NEON). `X R^T` with `K = 176` takes a quarter less
    time than with `K = 175` (2176 rows, `I = 1536`, two AVX-512 cores).
    """
    return _WIDTH if largest >= 4 * _WIDTH else 1


def allocate(
    errors: Sequence[Tensor], costs: Sequence[int], budget: int, steps: Sequence[int] | None = None
) -> list[int]:
    """Return ranks `K_l` that minimise `sum_l sum_{k >= K_l} errors[l][k]` subject to `sum_l K_l costs[l] <= budget`.

    The allocation is greedy: every layer starts at one step of directions; then the step with the largest error per
    parameter is added, until the next one does not fit. As the errors of a layer do not increase, no other multiples
    of the steps that cost at most as much as the result give a smaller error (greedy solution of a separable convex
    problem, Fox 1966).

    Args:
        errors: per layer, the error that dropping each of its directions adds (`[largest rank]`, at least one step
            long): non-increasing, not negative, in the same unit for all layers.
        costs: per layer, the parameters of one direction, `O + I`.
        budget: parameters of all layers together.
        steps: per layer, the number of which its rank is a multiple; None is 1 for all. Directions beyond the last
            multiple are never kept.

    Raises:
        ValueError: one step of every layer together exceeds the budget.
    """
    steps = [1] * len(costs) if steps is None else steps
    errors = [_in_steps(d, step) for d, step in zip(errors, steps, strict=True)]
    costs = [cost * step for cost, step in zip(costs, steps, strict=True)]
    left = budget - sum(costs)
    if left < 0:
        raise ValueError(f"the least rank of every layer takes {sum(costs)} parameters, more than {budget}")
    layer = torch.cat([torch.full((len(d) - 1,), index) for index, d in enumerate(errors)])
    worth = torch.cat([d[1:].double().cpu() / cost for d, cost in zip(errors, costs, strict=True)])
    order = layer[worth.argsort(descending=True, stable=True)]  # within a layer, the order of its directions
    kept = order[torch.tensor(costs)[order].cumsum(0) <= left]
    counts = (1 + kept.bincount(minlength=len(costs))).tolist()
    return [count * step for count, step in zip(counts, steps, strict=True)]


def _in_steps(errors: Tensor, step: int) -> Tensor:
    return errors[: len(errors) // step * step].view(-1, step).sum(1)
