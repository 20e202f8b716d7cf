"""The contract on families that no method was written for: other timm ViTs, and hierarchical models."""

import copy

import pytest
import torch
from omegaconf import OmegaConf

from tests.small import METHODS, batch
from tests.small import method as make
from wasi.errors import UserError
from wasi.layers.base import LowRankLayer
from wasi.methods.feature_init import feature_moments
from wasi.methods.perplexity_search import PerplexitySearch
from wasi.methods.scope import scope_linears
from wasi.methods.selection import ActivationRanks
from wasi.models.structure import head_module, linear_sites
from wasi.tracking import Tracker
from wasi.training.gradient_checkpointing import checkpoint_blocks
from wasi.training.lean import LeanStep
from wasi.training.monitor import Monitor
from wasi.training.step import TrainStep

VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
DOUBLE = torch.float64


def deit():
    from timm.models.deit import VisionTransformerDistilled

    return VisionTransformerDistilled(**VIT)


def beit():
    from timm.models.beit import Beit

    return Beit(**VIT, init_values=0.1, use_rel_pos_bias=True)


def eva():
    from timm.models.eva import Eva

    return Eva(**VIT, swiglu_mlp=True, qkv_fused=False)


def cait():
    from timm.models.cait import Cait

    return Cait(**VIT, init_values=0.1)


def timm_swin():
    from timm.models.swin_transformer import SwinTransformer

    sizes = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4}
    return SwinTransformer(16, 2, num_classes=5, drop_path_rate=0, **sizes)


def pit():
    from timm.models.pit import PoolingVisionTransformer

    return PoolingVisionTransformer(16, 4, 4, "overlap", [8, 8], [1, 1], [2, 4], 2, num_classes=5)


def pvt():
    from timm.models.pvt_v2 import PyramidVisionTransformerV2

    sizes = {"depths": (1,) * 4, "embed_dims": (16, 16, 32, 32), "num_heads": (1, 2, 2, 2), "mlp_ratios": (2,) * 4}
    return PyramidVisionTransformerV2(num_classes=5, **sizes)


def swinv2():
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    sizes = {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4}
    return SwinTransformerV2(16, 2, num_classes=5, drop_path_rate=0, **sizes)


def mvitv2():
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    strides = ((1, 1), (2, 2))
    cfg = MultiScaleVitCfg((1, 1), (16, 32), (1, 2), stride_q=strides, stride_kv=strides)
    return MultiScaleVit(cfg, img_size=32, num_classes=5)


def crossvit():
    """Blocks inside a module that owns attentions of its own."""
    from timm.models.crossvit import CrossVit

    sizes = {"embed_dim": (16, 32), "depth": ((1, 2, 0), (1, 2, 0)), "num_heads": (2, 2), "mlp_ratio": (2, 2, 1)}
    return CrossVit(img_size=16, img_scale=(1.0, 1.0), patch_size=(4, 8), num_classes=5, **sizes)


def levit():
    """Each linear with a batch norm behind it."""
    from timm.models.levit import Levit

    return Levit(64, embed_dim=(16, 32, 32), key_dim=8, depth=(1, 1, 1), num_heads=(2, 2, 2), num_classes=5)


def convit():
    """Position indices that are made in the first forward."""
    from timm.models.convit import ConVit

    return ConVit(**(VIT | {"num_heads": 4}), local_up_to_layer=1)


def xcit():
    """Attention between features, and batch norms in the blocks."""
    from timm.models.xcit import Xcit

    return Xcit(16, 8, embed_dim=32, depth=2, num_heads=2, num_classes=5, eta=1.0)


HIERARCHICAL = (timm_swin, swinv2, pit, pvt, mvitv2, crossvit, levit)
FAMILIES = {f.__name__: f for f in (deit, beit, eva, cait, convit, xcit, *HIERARCHICAL)}
SIZES = {"pvt": 64, "levit": 64, "mvitv2": 32}


def made(family, dtype=torch.float32):
    torch.manual_seed(0)
    model = FAMILIES[family]().to(dtype)
    for norm in model.modules():
        if "Norm" in type(norm).__name__ and getattr(norm, "weight", None) is not None:
            torch.nn.init.ones_(norm.weight)  # where it starts at zero, a frozen one would cut its block off
    for head in head_module(model).modules():
        if isinstance(head, torch.nn.Linear):
            torch.nn.init.normal_(head.weight, std=0.1)  # so that gradients are not too small to move a float
    return model


def images_for(family, dtype=torch.float32, seed=0):
    images, labels = batch(6, seed, dtype)
    size = SIZES.get(family, 16)
    return torch.nn.functional.interpolate(images, size=(size, size)), labels


def sgd(model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)


# Every method on every family; one kind of linear alone with two methods of each family, and each method on some.
CASES = [(family, method, "all") for family in FAMILIES for method in METHODS]
CASES += [
    (family, METHODS[(number + shift) % len(METHODS)], scope)
    for number, family in enumerate(FAMILIES)
    for scope, shifts in (("mlp", (0, 4)), ("attention", (2, 6)))
    for shift in shifts
]
assert {(method, scope) for _, method, scope in CASES} == {(m, s) for m in METHODS for s in ("mlp", "attention", "all")}


@pytest.mark.parametrize(("family", "method", "scope"), CASES)
def test_contract(family, method, scope):
    images, labels = images_for(family)
    sites = linear_sites(made(family), scope)
    assert len({site.name for site in sites}) == len(sites)
    model, other = (make(method, scope).apply(made(family), [(images, labels)]) for _ in range(2))
    layers = [m for _, m in model.named_modules(remove_duplicate=False) if isinstance(m, LowRankLayer)]
    assert len(layers) in (0, len(sites))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    step = TrainStep(model, sgd(model), None, clip_norm=2.0)
    for size in (6, 6, 2):
        step(images[:size], labels[:size])
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all(p.requires_grad for n, p in model.named_parameters() if n in moved)
    for layer in layers:  # each of them trains
        own = {id(p) for p in layer.parameters() if p.requires_grad}
        assert any(id(p) in own and n in moved for n, p in model.named_parameters()), layer
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images), other.eval()(images))


@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_can_be_searched_and_stability_monitored(family, tmp_path):
    images, labels = images_for(family)
    found = PerplexitySearch("memory", None, None, None, 0.8)
    search = ActivationRanks("perplexity", 0.8, None, found)
    sites = linear_sites(made(family), "all")
    model = make("wasi", "all", activations=search).apply(made(family), [(images, labels)])
    assert len(found.artifacts["perplexity.json"]["chosen"]) == len(sites)
    rank = {"weight_epsilon": 0.8, "activation_epsilon": 0.8}
    cfg = OmegaConf.create({"method": {"scope": "all"}, "rank": rank})
    for i, net in enumerate((model, made(family))):
        Monitor(net, [(images, labels)], cfg, tmp_path, Tracker())(i, 0)
        with open(tmp_path / "monitor.csv") as file:
            assert len(file.readlines()) == 1 + (i + 1) * len(sites)


@pytest.mark.parametrize("method", ["wasi", "svd_llm"])
@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_changes_nothing(family, method):
    images, labels = images_for(family, DOUBLE)
    model = make(method, "all").apply(made(family, DOUBLE), [(images, labels)])
    other = copy.deepcopy(model)
    checkpoint_blocks(other)
    for net in (model, other):
        step = TrainStep(net, sgd(net), None, clip_norm=2.0)
        for seed in range(2):
            step(*images_for(family, DOUBLE, seed))
    assert torch.allclose(model.eval()(images), other.eval()(images), atol=1e-9)


def shared_bias():
    """A position bias that is computed once, for all blocks."""
    from timm.models.beit import Beit

    return Beit(**VIT, init_values=0.1, use_shared_rel_pos_bias=True)


REFUSED = {
    **dict.fromkeys(("cait", "mvitv2", "shared_bias"), "blocks take or return more than one activation"),
    **dict.fromkeys(("levit", "xcit"), "blocks have batch norms"),
    "crossvit": "several patch embeddings",
}


@pytest.mark.parametrize("family", [*FAMILIES, "shared_bias"])
def test_lean_changes_nothing_or_is_refused(family, monkeypatch):
    monkeypatch.setitem(FAMILIES, "shared_bias", shared_bias)
    images, labels = images_for(family, DOUBLE)
    images = (64 * images + 128).clamp(0, 255).byte()
    model = make("wasi", "all").apply(made(family, DOUBLE), [(normalize(images), labels)])
    other = copy.deepcopy(model)
    plain = TrainStep(model, sgd(model), normalize, clip_norm=2.0)
    options = {"chunk_size": 4, "segment_size": 2, "storage": DOUBLE, "clip_norm": 2.0}
    if family in REFUSED:
        with pytest.raises(UserError, match=f"train.memory=lean: allowed is plain for .*{REFUSED[family]}"):
            LeanStep(other, sgd(other), normalize, **options)(images, labels)
        return
    thin = LeanStep(other, sgd(other), normalize, **options)
    for _ in range(2):
        for step in (plain, thin):
            torch.manual_seed(0)
            step(*step.prepare(images, labels))
    assert torch.allclose(model.eval()(normalize(images)), other.eval()(normalize(images)), atol=1e-9)


@pytest.mark.parametrize("family", ["cait", "mvitv2", "shared_bias"])
def test_lean_takes_frozen_blocks_of_several_activations(family, monkeypatch):
    monkeypatch.setitem(FAMILIES, "shared_bias", shared_bias)
    images, labels = images_for(family, DOUBLE)
    images = (64 * images + 128).clamp(0, 255).byte()
    losses = []
    for kind in (TrainStep, LeanStep):
        model = make("linear_probe", "all").apply(made(family, DOUBLE), [(normalize(images), labels)])
        options = {"chunk_size": 4, "segment_size": 2, "storage": DOUBLE} if kind is LeanStep else {}
        step = kind(model, sgd(model), normalize, **options)
        torch.manual_seed(0)
        losses.append(step(*step.prepare(images, labels)).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def normalize(images):
    return images.to(DOUBLE) / 127.5 - 1


@pytest.mark.parametrize("init", ["svd", "output", "features"])
@pytest.mark.parametrize("family", FAMILIES)
def test_at_full_rank_nothing_is_lost(family, init):
    images, labels = images_for(family, DOUBLE)
    plain = made(family, DOUBLE)
    model = make("wasi", "all", epsilon=1.0, init=init).apply(made(family, DOUBLE), [(images, labels)])
    assert torch.allclose(plain.eval()(images), model.eval()(images), atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_linear_reaches_the_features(family):
    model = made(family)
    linears = scope_linears(model, "all")
    found = feature_moments(model, linears, [images_for(family)])
    assert found.keys() == {id(linear.weight) for linear in linears.values()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mixer_s32_224", "convnext_atto", "coatnet_pico_rw_224"])
def test_a_model_without_attention_of_linear_layers_is_refused(name, method):
    import timm

    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(UserError, match="method.scope=all: allowed is available only for models with transformer"):
        make(method, "all").apply(model, [])
