"""Exact multiple-choice knapsack: one option per layer, least of one total under a bound on the other.

A dynamic program over layers. Its states are the pairs (memory, perplexity) that the layers so far can
reach; a state that another one beats in both is dropped, and so is one that a Lagrangian bound proves unable
to meet the bound, or to beat a solution already known. Nothing is rounded or scaled, so the result is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Bounds are sums in another order than the states'; what lies within rounding of them is kept.
_SLACK = 1e-9
_BISECTIONS = 60


@dataclass(frozen=True)
class Option:
    """What one candidate costs a layer: stored elements, and error of its weight gradient."""

    memory: int
    perplexity: float


@dataclass(frozen=True)
class Choice:
    """Index of the chosen option per layer, and the two totals (summed in the layers' order)."""

    indices: tuple[int, ...]
    memory: int
    perplexity: float


class Unreachable(ValueError):
    """No choice meets the bound; `least` is the smallest one that can be met."""

    def __init__(self, least: float):
        self.least = least
        super().__init__(f"the least possible is {least}")


def least_memory(layers: Sequence[Sequence[Option]], ceiling: float) -> Choice:
    """The choice of least total memory whose summed perplexity is at most `ceiling` (WASI).

    Among equals the one of least perplexity. Raises Unreachable.
    """
    cost = [np.array([o.memory for o in options], dtype=np.int64) for options in layers]
    load = [np.array([o.perplexity for o in options], dtype=np.float64) for options in layers]
    return _totals(layers, _solve(cost, load, ceiling))


def least_perplexity(layers: Sequence[Sequence[Option]], budget: int) -> Choice:
    """The choice of least summed perplexity whose total memory is at most `budget` elements (ASI).

    Among equals the one of least memory. Raises Unreachable.
    """
    cost = [np.array([o.perplexity for o in options], dtype=np.float64) for options in layers]
    load = [np.array([o.memory for o in options], dtype=np.int64) for options in layers]
    return _totals(layers, _solve(cost, load, budget))


def _totals(layers: Sequence[Sequence[Option]], indices: Sequence[int]) -> Choice:
    chosen = [options[i] for options, i in zip(layers, indices, strict=True)]
    return Choice(tuple(indices), sum(o.memory for o in chosen), sum(o.perplexity for o in chosen))


def _solve(cost: list[np.ndarray], load: list[np.ndarray], bound: float) -> list[int]:
    """One index per layer: least summed `cost` with summed `load <= bound`."""
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
    return _trace(history, int(np.flatnonzero(b <= bound)[0]))  # states lie in order of rising cost


def _undominated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Indices of the states that no other one beats or equals in both, by rising `a` and falling `b`."""
    order = np.lexsort((b, a))
    best = np.minimum.accumulate(b[order])
    return order[np.concatenate(([True], best[1:] < best[:-1]))]


def _remaining(values: list) -> np.ndarray:
    """Sums over the layers from each one to the last; 0 after the last."""
    return np.concatenate((np.cumsum(np.array(values, dtype=np.float64)[::-1])[::-1], [0.0]))


def _lagrangian(cost: list[np.ndarray], load: list[np.ndarray], bound: float) -> tuple[float, float]:
    """A price per unit of load whose greedy choices meet the bound closely, and the cost of such a choice.

    `sum min(cost + price * load) - price * bound` bounds the optimum from below at any price from 0 up.
    """

    def greedy(price: float) -> tuple[float, float]:
        indices = [int(np.argmin(a + price * b)) for a, b in zip(cost, load, strict=True)]
        chosen = [(a[i], b[i]) for a, b, i in zip(cost, load, indices, strict=True)]
        return float(sum(a for a, _ in chosen)), float(sum(b for _, b in chosen))

    lightest = [min(zip(b, a, strict=True)) for a, b in zip(cost, load, strict=True)]
    known = float(sum(a for _, a in lightest))  # it meets the bound: the loads are the least there are
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
    indices = []
    for parents, options in reversed(history):
        indices.append(int(options[state]))
        state = int(parents[state])
    return indices[::-1]
