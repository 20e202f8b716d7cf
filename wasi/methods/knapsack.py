"""Exact multiple-choice knapsack: choose one option per layer, minimising one total under a bound on the other.

A dynamic program over layers. Its states are the pairs (memory, perplexity) that the layers so far can reach. A
state is dropped if another is at most as large in both, if it cannot meet the bound any more, or if a Lagrangian
bound proves that it cannot beat a known solution. Nothing is rounded or scaled, so the result is exact.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

# Relative tolerance: bounds are summed in another order than the states, so equal values may differ by rounding.
_SLACK = 1e-9
_BISECTIONS = 60


@dataclass(frozen=True)
class Option:
    """The two costs of one candidate of a layer: stored elements, and error of the weight gradient."""

    memory: int
    perplexity: float


@dataclass(frozen=True)
class Choice:
    """The index of the chosen option per layer, and the totals of both costs (summed in the layers' order)."""

    indices: tuple[int, ...]
    memory: int
    perplexity: float


class Unreachable(ValueError):
    """No choice meets the bound; `least` is the smallest bound that can be met."""

    def __init__(self, least: float):
        self.least = least
        super().__init__(f"the least possible is {least}")


def least_memory(layers: Sequence[Sequence[Option]], ceiling: float) -> Choice:
    """Return the choice of least total memory whose summed perplexity is at most `ceiling` (as in WASI).

    Ties are resolved by the least perplexity.

    Raises:
        Unreachable: no choice stays below `ceiling`.
    """
    cost = [np.array([o.memory for o in options], dtype=np.int64) for options in layers]
    load = [np.array([o.perplexity for o in options], dtype=np.float64) for options in layers]
    return _totals(layers, _solve(cost, load, ceiling))


def least_perplexity(layers: Sequence[Sequence[Option]], budget: int) -> Choice:
    """Return the choice of least summed perplexity whose total memory is at most `budget` elements (as in ASI).

    Ties are resolved by the least memory.

    Raises:
        Unreachable: no choice fits into `budget`.
    """
    cost = [np.array([o.perplexity for o in options], dtype=np.float64) for options in layers]
    load = [np.array([o.memory for o in options], dtype=np.int64) for options in layers]
    return _totals(layers, _solve(cost, load, budget))


def _totals(layers: Sequence[Sequence[Option]], indices: Sequence[int]) -> Choice:
    chosen = [options[i] for options, i in zip(layers, indices, strict=True)]
    return Choice(tuple(indices), sum(o.memory for o in chosen), in_order(o.perplexity for o in chosen))


def in_order(values: Iterable[float]) -> float:
    """Return the sum of `values`, added from first to last as the states are.

    From Python 3.12 on, `sum` compensates for rounding, so its result may lie on the other side of a bound.
    """
    return reduce(add, values, 0.0)


def _solve(cost: list[np.ndarray], load: list[np.ndarray], bound: float) -> list[int]:
    """Return one index per layer that minimises the summed `cost` under summed `load <= bound`."""
    least = sum(b.min() for b in load)
    if least > bound:
        raise Unreachable(float(least))
    price, known = _lagrangian(cost, load, bound)
    rest_load = _remaining([b.min() for b in load])
    rest_value = _remaining([(a + price * b).min() for a, b in zip(cost, load, strict=True)])
    load_limit = bound + _SLACK * abs(bound)
    value_limit = known + price * bound + _SLACK * (abs(known) + price * abs(bound))

    a, b = np.zeros(1, cost[0].dtype if cost else float), np.zeros(1, load[0].dtype if load else float)
    history: list[tuple[np.ndarray, np.ndarray]] = []  # per layer: parent state and option of each state
    for layer, (costs, loads) in enumerate(zip(cost, load, strict=True)):
        new_a, new_b = (a[:, None] + costs).ravel(), (b[:, None] + loads).ravel()
        possible = (new_b + rest_load[layer + 1] <= load_limit) & (
            new_a + price * new_b + rest_value[layer + 1] <= value_limit
        )
        candidates = np.flatnonzero(possible)
        front = candidates[_undominated(new_a[candidates], new_b[candidates])]
        a, b = new_a[front], new_b[front]
        history.append((front // len(costs), front % len(costs)))
    return _trace(history, int(np.flatnonzero(b <= bound)[0]))  # states are sorted by rising cost


def _undominated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the indices of the Pareto-optimal states, sorted by rising `a` and falling `b`; of equal states, one."""
    order = np.lexsort((b, a))
    best = np.minimum.accumulate(b[order])
    return order[np.concatenate(([True], best[1:] < best[:-1]))]


def _remaining(values: list) -> np.ndarray:
    """Return the suffix sums of `values`, with a final 0."""
    return np.concatenate((np.cumsum(np.array(values, dtype=np.float64)[::-1])[::-1], [0.0]))


def _lagrangian(cost: list[np.ndarray], load: list[np.ndarray], bound: float) -> tuple[float, float]:
    """Return a Lagrange multiplier (`price`) found by bisection, and the least cost of the feasible choices met.

    At any price from 0 up, `sum min(cost + price * load) - price * bound` is a lower bound of the optimum.
    """

    def greedy(price: float) -> tuple[float, float]:
        indices = [int(np.argmin(a + price * b)) for a, b in zip(cost, load, strict=True)]
        chosen = [(a[i], b[i]) for a, b, i in zip(cost, load, indices, strict=True)]
        return float(sum(a for a, _ in chosen)), float(sum(b for _, b in chosen))

    lightest = [min(zip(b, a, strict=True)) for a, b in zip(cost, load, strict=True)]
    known = float(sum(a for _, a in lightest))  # feasible: every load is the layer's least
    spread = [float(np.ptp(a)) for a in cost]
    steps = [np.diff(np.unique(b)) for b in load]
    least_step = min((s.min() for s in steps if len(s)), default=1.0)
    low, high = 0.0, 2 * sum(spread) / float(least_step) + 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        total, weight = greedy(middle)
        if weight <= bound:
            high, known = middle, min(known, total)
        else:
            low = middle
    return high, known


def _trace(history: list[tuple[np.ndarray, np.ndarray]], state: int) -> list[int]:
    """Return the options that led to the last layer's `state`, by following the parents backwards."""
    indices = []
    for parents, options in reversed(history):
        indices.append(int(options[state]))
        state = int(parents[state])
    return indices[::-1]
