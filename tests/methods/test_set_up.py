"""Applying a method: dense weights go one by one, and calibration does not depend on how images are grouped."""

import weakref
from collections import Counter

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn

from tests.small import MODELS, batch, build
from tests.small import method as make
from wasi.errors import UserError
from wasi.layers.factored import FactoredLinear
from wasi.methods import calibration, input_gradients
from wasi.methods import svd_llm as svd_llm_module
from wasi.methods import wasi as wasi_module
from wasi.methods.scope import replace_each, scope_linears
from wasi.models.modes import eval_mode
from wasi.models.structure import find_blocks, head_module

DOUBLE = torch.float64
KINDS = [
    ("wsi", {"init": "svd"}),
    ("wsi", {"init": "svd", "update": "svd"}),
    ("wsi", {"init": "output"}),
    ("wasi", {"init": "features"}),
    ("wsi", {"init": "features", "weight_allocation": "sensitivity"}),
    ("svd_llm", {}),
    ("svd_llm", {"weight_allocation": "sensitivity"}),
]


@pytest.mark.parametrize("method, options", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_a_dense_weight_is_freed_before_the_next_is_factored(name, method, options, monkeypatch):
    model = build(name)
    weights = [weakref.ref(linear.weight) for linear in scope_linears(model, "all").values()]
    alive = []

    def counting(function):
        def counted(*args, **kwargs):
            alive.append(sum(weight() is not None for weight in weights))
            return function(*args, **kwargs)

        return counted

    if method == "svd_llm":
        monkeypatch.setattr(svd_llm_module, "whitened_factors", counting(svd_llm_module.whitened_factors))
    else:
        monkeypatch.setattr(wasi_module._SharedFactors, "_start", counting(wasi_module._SharedFactors._start))
    make(method, "all", 0.6, **options).apply(model, [batch()])
    assert alive == list(range(len(weights), 0, -1)) and not any(weight() is not None for weight in weights)


def test_a_tied_weight_stays_until_its_last_linear_goes():
    model = build("timm_vit")
    first, second = (block.mlp for block in model.blocks)
    second.fc1.weight = first.fc1.weight
    tied = weakref.ref(first.fc1.weight)
    seen = []

    def made(name, linear):
        seen.append((name, tied() is not None))
        return nn.Linear(linear.in_features, linear.out_features)

    del first, second
    replace_each(model, scope_linears(model, "mlp"), made)
    assert seen == [(f"blocks.{i}.mlp.fc{j}", i + j < 3) for i in (0, 1) for j in (1, 2)] and tied() is None


def factors_of(name, method, options):
    batches = [batch(20, 1, DOUBLE), batch(7, 2, DOUBLE)]
    applied = make(method, "all", 0.6, calibration_batches=2, **options) if method != "svd_llm" else make(method)
    model = applied.apply(build(name, dtype=DOUBLE), batches)
    return [m.L @ m.R for m in model.modules() if hasattr(m, "R")]


@pytest.mark.parametrize("method, options", [KINDS[2], KINDS[4], ("svd_llm", {})])
@pytest.mark.parametrize("chunk", [3, 100])
def test_how_many_images_go_at_a_time_changes_nothing(chunk, method, options, monkeypatch):
    by_default = factors_of("swin", method, options)
    monkeypatch.setattr(calibration, "CHUNK", chunk)
    for a, b in zip(factors_of("swin", method, options), by_default, strict=True):
        assert a.shape == b.shape and torch.allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("method, options", [KINDS[2], KINDS[4], KINDS[6]])
def test_at_most_sixteen_images_are_in_the_model(method, options):
    model, sizes = build("timm_vit"), []
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    make(method, "mlp", 0.6, **options).apply(model, [batch(40)])
    assert max(sizes) <= 16 and sum(sizes) in (40, 80)  # twice where sensitivities are looked at first


def test_a_module_under_two_names_is_replaced_by_one():
    model = build("timm_vit")
    model.blocks[1].mlp.fc2 = model.blocks[0].mlp.fc2
    make("wsi", "mlp", 0.6).apply(model, [batch()])
    first, second = (block.mlp.fc2 for block in model.blocks)
    assert first is second and isinstance(first, FactoredLinear)


@pytest.mark.parametrize("method", ["lora", "svd_llm"])
def test_an_adapter_of_more_rank_than_any_weight_is_refused(method):
    with pytest.raises(UserError, match=r"^method\.lora_rank=100000: allowed is at most \d+"):
        make(method, "all", lora_rank=100000).apply(build("timm_vit"), [batch()])


@pytest.mark.parametrize("method", ["lora", "svd_llm"])
@pytest.mark.parametrize("option", ["lora_rank", "lora_alpha"])
def test_a_size_of_adapters_that_is_null_is_refused(option, method, compose_config):
    """It stands for a default in `method=peft` alone, so a rule for the option by itself allows it."""
    cfg = compose_config(f"method={method}", f"method.{option}=null")
    with pytest.raises(InstantiationException) as refusal:
        instantiate(cfg.method)
    assert str(refusal.value.__cause__).startswith(f"method.{option}=null: allowed is a number above 0")


def names_in_graph(tensor):
    """How often each kind of node comes in the graph that a tensor hangs on."""
    found, todo = {}, [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in found:
            found[node] = node.name()
            todo += [following for following, _ in node.next_functions]
    return Counter(found.values())


@pytest.mark.parametrize("name", MODELS)
def test_the_features_gradients_take_one_blocks_graph_at_a_time_and_are_the_same_to_the_last_bit(name, monkeypatch):
    model, (images, _) = build(name), batch()
    blocks, gone, graphs = find_blocks(model), [], []
    names = {id(parameter): block for block, module in blocks.items() for parameter in module.parameters()}
    release = lambda parameters: gone.append({names[id(p)] for p in parameters})  # noqa: E731
    monkeypatch.setattr(input_gradients, "release_pages", release)
    head_module(model).register_forward_pre_hook(lambda _, args: graphs.append(names_in_graph(args[0])))

    def gradient():
        x = images.clone().requires_grad_()
        (found,) = torch.autograd.grad(model(x).square().sum(), x)
        return found

    with eval_mode(model), torch.enable_grad():
        expected = gradient()
    with input_gradients.for_input_gradients(model):
        assert torch.equal(gradient(), expected)
    ordinary, ours = graphs
    assert ours["_RecomputeBackward"] == len(blocks) and ordinary["AddmmBackward0"] >= 2 * len(blocks) > 0
    assert not ours["AddmmBackward0"] and sum(ours.values()) < sum(ordinary.values()) / 2
    assert gone == [{block} for block in reversed(blocks)]
    assert not any("forward" in vars(block) for block in blocks.values())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", ["another input", "two outputs"])
def test_a_block_that_a_repetition_would_cut_off_from_the_images_is_not_repeated(kind, monkeypatch):
    class Block(nn.Module):
        def forward(self, x, others):
            return x * others["scale"] if kind == "another input" else (x.sin(), x.cos())

    block = Block()
    monkeypatch.setattr(input_gradients, "find_blocks", lambda model: {"0": model})

    def gradient():
        x = torch.linspace(0, 1, 5).requires_grad_()
        out = block(x.sin(), {"scale": x.cos() if kind == "another input" else None})
        (found,) = torch.autograd.grad(out.sum() if isinstance(out, torch.Tensor) else sum(out).sum(), x)
        return found

    expected = gradient()
    with input_gradients.for_input_gradients(block):
        assert torch.equal(gradient(), expected)


def test_second_derivatives_through_a_block_that_is_repeated_are_refused():
    model, (images, _) = build("timm_vit"), batch()
    with input_gradients.for_input_gradients(model):
        x = images.clone().requires_grad_()
        (found,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            found.square().sum().backward()
