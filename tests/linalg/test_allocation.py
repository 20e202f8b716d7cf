"""Ranks under a budget, against every combination of ranks that there is."""

from itertools import product

import pytest
import torch

from wasi.linalg.allocation import allocate, largest_rank, rank_step

COSTS = [3, 5, 4]


def spectra(seed, lengths=(4, 3, 5)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(n, generator=generator, dtype=torch.float64).sort(descending=True)[0] for n in lengths]


def error(errors, ranks):
    return sum(d[rank:].sum().item() for d, rank in zip(errors, ranks, strict=True))


def price(ranks, costs):
    return sum(rank * cost for rank, cost in zip(ranks, costs, strict=True))


def every(errors):
    return product(*(range(1, len(d) + 1) for d in errors))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [12, 17, 23, 31, 40, 60])
def test_no_ranks_of_its_cost_give_a_smaller_error(seed, budget):
    errors = spectra(seed)
    ranks = allocate(errors, COSTS, budget)
    cost = price(ranks, COSTS)
    least = min(error(errors, other) for other in every(errors) if price(other, COSTS) <= cost)
    assert cost <= budget and error(errors, ranks) == pytest.approx(least)
    assert budget - cost < max(COSTS) or ranks == [len(d) for d in errors]  # less is left than a direction takes


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [12, 17, 23, 31, 40, 60])
def test_at_equal_costs_it_is_the_best_under_the_budget(seed, budget):
    errors, costs = spectra(seed), [4, 4, 4]
    ranks = allocate(errors, costs, budget)
    least = min(error(errors, other) for other in every(errors) if price(other, costs) <= budget)
    assert error(errors, ranks) == pytest.approx(least)


@pytest.mark.parametrize("budget", [60, 75, 110])
def test_in_steps_no_ranks_of_its_cost_give_a_smaller_error(budget):
    errors, steps = spectra(0, lengths=(9, 6, 11)), [4, 1, 4]
    ranks = allocate(errors, COSTS, budget, steps)
    cost = price(ranks, COSTS)
    others = [r for r in every(errors) if all(k % step == 0 for k, step in zip(r, steps, strict=True))]
    least = min(error(errors, other) for other in others if price(other, COSTS) <= cost)
    assert cost <= budget and ranks in [list(r) for r in others]
    assert error(errors, ranks) == pytest.approx(least)


def test_only_wide_layers_take_directions_in_steps():
    assert [rank_step(largest) for largest in (1, 63, 64, 307)] == [1, 1, 16, 16]


def test_a_layer_without_damage_keeps_one_direction():
    assert allocate([torch.zeros(3), torch.tensor([5.0, 4.0, 3.0])], [2, 2], 8) == [1, 3]


def test_a_budget_below_rank_one_is_refused():
    with pytest.raises(ValueError, match="takes 12 parameters, more than 11"):
        allocate(spectra(0), COSTS, 11)


@pytest.mark.parametrize("outputs, inputs", [(384, 384), (1536, 384), (7, 12), (1, 1), (1, 9)])
def test_largest_rank_is_the_last_that_does_not_outgrow_the_dense_weight(outputs, inputs):
    rank, dense = largest_rank(outputs, inputs), outputs * inputs
    assert (rank + 1) * (outputs + inputs) > dense
    assert rank * (outputs + inputs) <= dense or rank == 1
