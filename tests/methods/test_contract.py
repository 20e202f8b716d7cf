"""What every method promises, on every family of models and in every scope."""

import copy

import pytest
import torch

from tests.small import CLASSES, METHODS, MODELS, applied, batch, build, method_options
from tests.small import method as make
from wasi.errors import UserError
from wasi.layers.base import LowRankLayer
from wasi.methods.selection import ActivationRanks
from wasi.models.structure import head_module, linear_sites
from wasi.training.step import TrainStep

SCOPES = ("mlp", "attention", "all")
ADAPTERS = [name for name in METHODS if "lora_rank" in method_options(name)]
HAS_REST = [name for name in METHODS if "train_rest" in method_options(name)]


def low_rank_layers(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, LowRankLayer)}


def sgd(model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_replaces_its_scope_trains_and_evaluates(name, method, scope):
    sites = linear_sites(build(name), scope)
    model = applied(name, method, scope=scope)
    layers = low_rank_layers(model)
    if layers:  # otherwise it is a method that leaves the library's modules as they are
        assert [(m.in_features, m.out_features) for m in layers.values()] == [
            (s.in_features, s.out_features) for s in sites
        ]
    before = copy.deepcopy(model.state_dict())
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    images, labels = batch()
    TrainStep(model, sgd(model), None, clip_norm=2.0)(images, labels)
    assert model.eval()(images).shape == (len(images), CLASSES)
    after = model.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in frozen)
    moved = {n for n, p in model.named_parameters() if not torch.equal(before[n], after[n])}
    assert moved and moved.isdisjoint(frozen)
    if layers:
        assert any(n.startswith(tuple(f"{name}." for name in layers)) for n in moved)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_state_dict_round_trip(name, method):
    model, other = applied(name, method), applied(name, method)
    TrainStep(model, sgd(model), None)(*batch())
    other.load_state_dict(model.state_dict())
    images = batch(seed=5)[0]
    assert torch.equal(model.eval()(images), other.eval()(images))


@pytest.mark.parametrize("method", HAS_REST)
@pytest.mark.parametrize("name", MODELS)
def test_with_the_rest_frozen_only_scope_and_head_train(name, method):
    model = applied(name, method, scope="mlp", train_rest=False)
    inside = tuple(site.name for site in linear_sites(build(name), "mlp"))
    head = {id(p) for p in head_module(model).parameters()}
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(id(p) in head or n.startswith(inside) for n, p in trainable.items())
    assert head <= {id(p) for p in trainable.values()}
    if method in ADAPTERS:
        assert all("adapter" in n for n, p in trainable.items() if id(p) not in head)


@pytest.mark.parametrize("method", METHODS)
def test_a_module_used_twice_stays_one(method):
    model = build("timm_vit")
    model.blocks[1].mlp.fc1 = model.blocks[0].mlp.fc1
    model = make(method, "mlp").apply(model, [batch()])
    assert model.blocks[1].mlp.fc1 is model.blocks[0].mlp.fc1
    assert len(low_rank_layers(model)) in (0, 3)
    assert TrainStep(model, sgd(model), None)(*batch()).loss > 0


@pytest.mark.parametrize("method", ["wasi", "wsi"])
@pytest.mark.parametrize("name", MODELS)
def test_at_full_rank_nothing_is_lost(name, method):
    plain = build(name, dtype=torch.float64)
    model = applied(name, method, torch.float64, epsilon=1.0)
    images, labels = batch(dtype=torch.float64)
    assert torch.allclose(plain.eval()(images), model.eval()(images), atol=1e-9)
    for net in (plain.train(), model.train()):
        torch.nn.functional.cross_entropy(net(images), labels).backward()
    for (n, a), b in zip(head_module(plain).named_parameters(), head_module(model).parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-9), n
    first, second = (next(net.parameters()).grad for net in (plain, model))
    assert torch.allclose(first, second, atol=1e-9)


@pytest.mark.parametrize("method", ["wasi", "wsi"])
def test_no_dense_weight_is_left(method):
    model = applied("timm_vit", method, epsilon=0.3, scope="all")
    for layer in low_rank_layers(model).values():
        dense = layer.in_features * layer.out_features
        assert all(t.numel() < dense for t in [*layer.parameters(), *layer.buffers()])


@pytest.mark.parametrize("name, ranks", [("timm_vit", [4, 5]), ("swin", [4, 5, 6])])
def test_a_wrong_number_of_fixed_ranks_is_refused(name, ranks):
    with pytest.raises(UserError, match="rank.activation_ranks"):
        applied(name, "wasi", scope="mlp", activations=ActivationRanks("fixed", 0.8, ranks))


def test_fixed_ranks_are_used():
    model = applied("timm_vit", "wasi", scope="mlp", activations=ActivationRanks("fixed", 0.8, [3, 4, 5]))
    assert {layer.activation_ranks for layer in low_rank_layers(model).values()} == {(3, 4, 5)}


def test_a_zero_weight_is_an_error_that_names_the_layer():
    model = build("timm_vit")
    torch.nn.init.zeros_(model.blocks[1].mlp.fc1.weight)
    with pytest.raises(UserError, match="blocks.1.mlp.fc1"):
        make("wasi", "mlp").apply(model, [batch()])


def test_factors_larger_than_the_weight_are_told_once(caplog):
    make("wasi", "mlp", epsilon=1.0).apply(build("timm_vit"), [batch()])
    lines = [r.getMessage() for r in caplog.records if "blocks.0.mlp.fc1" in r.getMessage()]
    assert len(lines) == 1 and "4096" in lines[0]


@pytest.mark.parametrize("method", METHODS)
def test_applying_touches_no_global_random_state(method):
    model = build("timm_vit")
    state = torch.get_rng_state()
    make(method).apply(model, [batch()])
    assert torch.equal(state, torch.get_rng_state())
