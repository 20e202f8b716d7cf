"""The exact program against trying everything."""

import itertools
import random

import pytest

from wasi.methods.knapsack import Option, Unreachable, in_order, least_memory, least_perplexity


def everything(layers):
    """(memory, perplexity) of every choice there is, summed in the layers' order."""
    for options in itertools.product(*layers):
        yield sum(o.memory for o in options), in_order(o.perplexity for o in options)


def random_case(seed):
    """Few layers with few options: small whole numbers (many ties), any floats, or costs that fall with gains."""
    draw = random.Random(seed)
    kind, layers = seed % 3, []
    for _ in range(draw.randint(1, 5)):
        count = draw.randint(1, 5)
        if kind == 0:
            options = [Option(draw.randint(0, 6), float(draw.randint(0, 6))) for _ in range(count)]
        elif kind == 1:
            scale = 10 ** draw.randint(-6, 3)
            options = [Option(draw.randint(0, 99), draw.random() * scale) for _ in range(count)]
        else:
            options = [Option(draw.randint(1, 9) * j**3, draw.random() / j) for j in range(1, count + 1)]
        layers.append(options)
    return draw, layers


@pytest.mark.parametrize("block", range(8))
def test_least_memory_under_a_ceiling(block):
    for seed in range(60 * block, 60 * block + 60):
        draw, layers = random_case(seed)
        totals = list(everything(layers))
        perplexities = [p for _, p in totals]
        between = draw.uniform(0.9 * min(perplexities), max(perplexities))
        ceiling = draw.choice([draw.choice(perplexities), between])
        allowed = [(m, p) for m, p in totals if p <= ceiling]
        if not allowed:
            with pytest.raises(Unreachable) as error:
                least_memory(layers, ceiling)
            assert error.value.least == pytest.approx(min(perplexities))
            continue
        choice = least_memory(layers, ceiling)
        assert (choice.memory, choice.perplexity) == min(allowed)
        picked = [options[i] for options, i in zip(layers, choice.indices, strict=True)]
        assert choice.memory == sum(o.memory for o in picked)


@pytest.mark.parametrize("block", range(8))
def test_least_perplexity_under_a_budget(block):
    for seed in range(60 * block, 60 * block + 60):
        draw, layers = random_case(seed)
        totals = list(everything(layers))
        memories = [m for m, _ in totals]
        budget = draw.choice([draw.choice(memories), draw.randint(min(memories) - 1, max(memories) + 1)])
        allowed = [(p, m) for m, p in totals if m <= budget]
        if not allowed:
            with pytest.raises(Unreachable) as error:
                least_perplexity(layers, budget)
            assert error.value.least == min(memories)
            continue
        choice = least_perplexity(layers, budget)
        assert (choice.perplexity, choice.memory) == min(allowed)


def test_the_two_problems_meet_on_a_large_case():
    draw = random.Random(0)
    layers = []
    for _ in range(96):
        base, scale = draw.randint(100, 5000), draw.uniform(0.1, 10)
        layers.append([Option(base * (j + 1) ** 3, scale * draw.uniform(0.8, 1.2) / (j + 1)) for j in range(6)])
    uniform = sum(options[3].memory for options in layers)
    best = least_perplexity(layers, uniform)
    assert best.memory <= uniform
    assert best.perplexity < sum(options[3].perplexity for options in layers)
    back = least_memory(layers, best.perplexity)
    assert (back.memory, back.perplexity) == (best.memory, best.perplexity)


def test_no_layers_cost_nothing():
    assert least_memory([], 0.0).indices == least_perplexity([], 0).indices == ()
