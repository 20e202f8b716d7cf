"""The measured table against autograd through reconstructed inputs, and the search on top of it."""

import copy
import json
import math
import random
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tests.small import MODELS, batch, build
from tests.small import method as make
from wasi.errors import UserError
from wasi.layers.activation import TuckerState, epsilon_ranks
from wasi.layers.base import LowRankLayer
from wasi.linalg.tucker import expand
from wasi.measure.memory import LiveMemory, train_peak
from wasi.methods.perplexity import measure_perplexities
from wasi.methods.perplexity_search import EPSILONS, PerplexitySearch
from wasi.methods.perplexity_table import Candidate, LayerTable
from wasi.methods.scope import scope_linears
from wasi.methods.selection import ActivationRanks
from wasi.training.step import TrainStep

DOUBLE = torch.float64


def gradients_seen(model, linears, images, labels):
    """Layer -> (inputs, output gradients), one of each per call, by retained outputs."""
    seen = {name: ([], []) for name in linears}

    def watch(name):
        def hook(_, args, output):
            output.retain_grad()
            seen[name][0].append(args[0].detach())
            seen[name][1].append(output)

        return hook

    hooks = [linear.register_forward_hook(watch(name)) for name, linear in linears.items()]
    F.cross_entropy(model.eval()(images), labels).backward()
    for hook in hooks:
        hook.remove()
    return {name: (inputs, [y.grad for y in outputs]) for name, (inputs, outputs) in seen.items()}


def weight_gradient(grad, x):
    return grad.reshape(-1, grad.shape[-1]).mT @ x.reshape(-1, x.shape[-1])


@pytest.mark.parametrize("name", MODELS)
def test_perplexity_is_the_error_of_the_weight_gradient(name):
    model = build(name, dtype=DOUBLE)
    linears = scope_linears(model, "all")
    images, labels = batch(dtype=DOUBLE)
    tables = measure_perplexities(model, linears, (images, labels), [0.5, 0.9, 1.0], "cut")
    seen = gradients_seen(model, linears, images, labels)
    assert [t.name for t in tables] == list(linears)
    for table in tables:
        (x,), (grad,) = seen[table.name]
        assert table.shapes == [tuple(x.shape)] and [c.epsilon for c in table.candidates] == [0.5, 0.9, 1.0]
        exact = weight_gradient(grad, x)
        assert torch.allclose(exact, linears[table.name].weight.grad)
        for candidate in table.candidates:
            state = TuckerState(x, epsilon_ranks(x, candidate.epsilon, "cut"))
            assert candidate.ranks == [state.ranks]
            assert candidate.elements == state.stored_elements(x.shape)
            error = (exact - weight_gradient(grad, expand(*state.compress(x)))).norm().item()
            assert candidate.perplexity == pytest.approx(error, rel=1e-6, abs=1e-12)
        assert table.candidates[0].perplexity > 100 * table.candidates[-1].perplexity


def test_an_activation_in_place_changes_nothing():
    def tables(inplace):
        model = build("timm_vit", dtype=DOUBLE)
        for block in model.blocks:
            block.mlp.act = nn.ReLU(inplace)
        return measure_perplexities(model, scope_linears(model, "all"), batch(dtype=DOUBLE), [0.5, 0.9], "whole")

    (first, second) = tables(True), tables(False)
    assert first == second and all(c.perplexity > 0 for table in first for c in table.candidates)


def shared_layer_model():
    """One module in both blocks: two calls, two names."""
    model = build("timm_vit", dtype=DOUBLE)
    model.blocks[1].mlp.fc2 = model.blocks[0].mlp.fc2
    return model


def test_a_layer_of_several_calls_is_measured_as_one_weight():
    model = shared_layer_model()
    linears = scope_linears(model, "mlp")
    images, labels = batch(dtype=DOUBLE)
    tables = {t.name: t for t in measure_perplexities(model, linears, (images, labels), [0.6], "cut")}
    assert set(tables) == {"blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.1.mlp.fc1"}
    inputs, grads = gradients_seen(model, {"x": model.blocks[0].mlp.fc2}, images, labels)["x"]
    error, elements = 0.0, 0
    for x, grad in zip(inputs, grads, strict=True):
        state = TuckerState(x, epsilon_ranks(x, 0.6, "cut"))
        error = error + weight_gradient(grad, x) - weight_gradient(grad, expand(*state.compress(x)))
        elements += state.stored_elements(x.shape)
    (candidate,) = tables["blocks.0.mlp.fc2"].candidates
    assert candidate.perplexity == pytest.approx(error.norm().item()) and candidate.elements == elements


def test_measuring_leaves_no_trace():
    model = build("timm_vit")
    model.norm.eval()  # one module in another mode than the others
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    images, labels = batch()
    measure_perplexities(model, scope_linears(model, "all"), (images, labels), EPSILONS, "whole")
    assert model.training and not model.norm.training and not images.requires_grad
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def search(objective="memory", uniform=0.7, ceiling=None, budget_mib=None, table=None):
    return PerplexitySearch(objective, ceiling, budget_mib, table, uniform)


def apply_search(found, name="timm_vit", method="wasi"):
    activations = ActivationRanks("perplexity", found.uniform_epsilon, None, found)
    return make(method, "all", activations=activations).apply(build(name), [batch()])


def totals(result, epsilon):
    at = [c for layer in result["layers"] for c in layer["candidates"] if c["epsilon"] == epsilon]
    return sum(c["perplexity"] for c in at), sum(c["elements"] for c in at)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["wasi", "asi"])
@pytest.mark.parametrize("objective", ["memory", "perplexity"])
def test_neither_bound_given_does_no_worse_than_the_uniform_threshold(objective, method, name):
    found = search(objective)
    model = apply_search(found, name, method)
    result = found.artifacts["perplexity.json"]
    perplexity, elements = totals(result, 0.7)
    assert result["perplexity"] <= perplexity or objective == "perplexity"
    assert result["memory_mib"] <= elements / 2**18
    assert result["perplexity"] < perplexity or result["memory_mib"] < elements / 2**18
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LowRankLayer)}
    assert list(result["chosen"]) == list(layers)
    shapes = {layer["name"]: layer["shapes"] for layer in result["layers"]}
    stored = sum(layer.stored_elements(shapes[n][0]) for n, layer in layers.items())
    assert stored == result["memory_mib"] * 2**18


def test_a_method_hands_the_search_on_as_its_artifacts():
    found = search()
    activations = ActivationRanks("perplexity", 0.7, perplexity=found)
    method = make("wasi", "all", activations=activations)
    assert not method.artifacts
    method.apply(build("timm_vit"), [batch()])
    assert list(method.artifacts) == ["perplexity.json"] and method.artifacts == found.artifacts


def test_given_bounds_hold_and_count_down_to_the_least_possible():
    free = search()
    apply_search(free)
    content = free.artifacts["perplexity.json"]
    (most, _), (_, least) = totals(content, 0.4), totals(content, 0.4)
    tight = search(budget_mib=least / 2**18)
    apply_search(tight)
    assert set(tight.artifacts["perplexity.json"]["chosen"].values()) == {0.4}
    loose = search("perplexity", ceiling=2 * most)
    apply_search(loose)
    assert loose.artifacts["perplexity.json"]["memory_mib"] == least / 2**18


@pytest.mark.parametrize("bound, option", [("budget_mib", "memory_budget_mib"), ("ceiling", "perplexity_ceiling")])
def test_an_unreachable_bound_tells_the_least_possible_one(bound, option):
    with pytest.raises(UserError, match=f"rank.{option}=1e-06: allowed is .* the least possible here") as error:
        apply_search(search(**{bound: 1e-6}))
    least = float(error.value.allowed.split()[0])
    apply_search(search(**{bound: least}))
    with pytest.raises(UserError):
        apply_search(search(**{bound: 0.99 * least}))


def test_a_module_under_two_names_gets_one_choice():
    found = search()
    activations = ActivationRanks("perplexity", 0.7, None, found)
    model = make("wasi", "mlp", activations=activations).apply(shared_layer_model().float(), [batch()])
    assert model.blocks[0].mlp.fc2 is model.blocks[1].mlp.fc2
    assert len(found.artifacts["perplexity.json"]["chosen"]) == 3


def test_a_saved_table_gives_the_same_ranks_without_measuring(tmp_path, monkeypatch):
    first = search()
    ranks = [m.activation_ranks for m in apply_search(first).modules() if isinstance(m, LowRankLayer)]
    path = tmp_path / "perplexity.json"
    path.write_text(json.dumps(first.artifacts["perplexity.json"]))
    monkeypatch.setattr("wasi.methods.perplexity_search.measure_perplexities", None)
    again = search(table=str(path))
    assert ranks == [m.activation_ranks for m in apply_search(again).modules() if isinstance(m, LowRankLayer)]
    assert json.loads(json.dumps(again.artifacts)) == json.loads(json.dumps(first.artifacts))


def test_a_table_of_something_else_is_refused(tmp_path):
    model = build("timm_vit")
    linears = scope_linears(model, "mlp")
    layers = [asdict(table) for table in measure_perplexities(model, linears, batch(size=4), EPSILONS, "whole")]

    def refused(content):
        (tmp_path / "t.json").write_text(content)
        with pytest.raises(UserError, match="rank.perplexity_table=.*t.json") as error:
            apply_search(search(table=str(tmp_path / "t.json")))
        return str(error.value)

    assert "8x" in refused(json.dumps({"batch_mode": "whole", "layers": layers}))  # measured at another batch size
    elsewhere = {"batch_mode": "whole", "layers": [{**layers[0], "name": "elsewhere"}]}
    assert "layers are" in refused(json.dumps(elsewhere))
    for change in ({"perplexity": float("nan")}, {"elements": -1}, {"ranks": [[1, 2]]}, {"ranks": []}):
        candidates = [{**layers[0]["candidates"][0], **change}]
        refused(json.dumps({"batch_mode": "whole", "layers": [{**layers[0], "candidates": candidates}]}))
    for content in ("{", "[]", '{"layers": []}', '{"layers": [{"name": "a"}]}'):
        refused(content)
    with pytest.raises(UserError, match="rank.perplexity_table=nowhere.json"):
        apply_search(search(table="nowhere.json"))


@pytest.mark.parametrize("measured, wanted", [("cut", "whole"), ("whole", "cut")])
def test_a_table_of_another_batch_mode_is_refused(tmp_path, measured, wanted):
    first = search()
    first.batch_mode = measured
    found = ActivationRanks("perplexity", 0.7, None, first, batch_mode=measured)
    make("wasi", "mlp", activations=found).apply(build("timm_vit"), [batch()])
    content = first.artifacts["perplexity.json"]
    assert content["batch_mode"] == measured
    (tmp_path / "t.json").write_text(json.dumps(content))
    again = ActivationRanks("perplexity", 0.7, None, search(table=str(tmp_path / "t.json")), batch_mode=wanted)
    with pytest.raises(UserError, match=f"allowed is a table measured with rank.batch_mode={wanted}"):
        make("wasi", "mlp", activations=again).apply(build("timm_vit"), [batch()])


def test_the_uniform_threshold_stays_within_its_own_bound_however_numbers_are_summed(monkeypatch):
    """From Python 3.12 on, `sum` compensates for rounding: a bound by it may lie below the sum in order."""
    layer = LayerTable("a", [(1, 1, 1)], [])
    tables = []
    for error in random.Random(0).choices([0.1, 0.7, 1e-9, 1 / 3, 2.6], k=24):
        tables.append(replace(layer, candidates=[Candidate(0.7, [(1, 1, 1)], error, 1)]))
    monkeypatch.setattr("builtins.sum", lambda values, start=0: math.fsum(values) + start)
    assert search()._choose(tables)[0].memory == 24


def test_a_table_without_the_uniform_threshold_is_refused(tmp_path):
    first = search()
    apply_search(first)
    (tmp_path / "t.json").write_text(json.dumps(first.artifacts["perplexity.json"]))
    with pytest.raises(UserError, match="rank.activation_epsilon=0.65"):
        apply_search(search(uniform=0.65, table=str(tmp_path / "t.json")))


def test_both_bounds_at_once_are_refused():
    with pytest.raises(UserError, match="rank.memory_budget_mib"):
        search(ceiling=1.0, budget_mib=1.0)


def test_measuring_takes_no_more_memory_than_a_training_step(monkeypatch):
    monkeypatch.setattr("wasi.linalg.spectrum._PIECE", 2**13)  # in proportion to this small model
    def model():
        torch.manual_seed(0)
        return VisionTransformer(32, 4, embed_dim=64, depth=4, num_heads=2, num_classes=5)

    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 5
    net = model()
    with LiveMemory(net, inputs=(images, labels)) as memory:
        measure_perplexities(net, scope_linears(net, "all"), (images, labels), EPSILONS, "whole")
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ordinary = train_peak(net, optimizer, TrainStep(net, optimizer, None), images, labels)
    assert memory.peak.total <= ordinary.total


def test_the_composed_method_searches_with_its_own_threshold(compose_config):
    import hydra

    cfg = compose_config("method=wasi", "rank=eps_0.7", "rank.activation_selection=perplexity", "method.scope=mlp")
    model = hydra.utils.instantiate(cfg.method).apply(build("timm_vit"), [batch()])
    assert all(m.activation_ranks for m in model.modules() if hasattr(m, "activation_ranks"))
