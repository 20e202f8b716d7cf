import re
from collections import Counter

import pytest
import timm
import torch
import torchvision
from torch import nn

from tests import small
from wasi.errors import UserError
from wasi.models.structure import (
    find_blocks,
    first_convolution,
    head_module,
    linear_sites,
    site_module,
    site_parameters,
)

# name -> blocks, mlp linears, attention linears
EXPECTED = {
    "torchvision vit_b_32": (12, 24, 24),
    "torchvision swin_t": (12, 24, 24),
    "torchvision swin_v2_t": (12, 24, 24),
    "torchvision maxvit_t": (22, 44, 44),
    "timm deit_tiny_patch16_224": (12, 24, 24),
    "timm vit_small_patch14_dinov2": (12, 24, 24),
    "timm swin_tiny_patch4_window7_224": (12, 24, 24),
    "timm swinv2_tiny_window8_256": (12, 24, 24),
    "timm beit_base_patch16_224": (12, 24, 24),
    "timm eva02_tiny_patch14_224": (12, 24, 24),
    "timm pit_ti_224": (12, 24, 24),
    "timm levit_128s": (11, 22, 24),
    "timm maxvit_tiny_tf_224": (22, 44, 44),
    "timm vit_small_patch16_18x2_224": (18, 72, 72),
    "timm vit_base_patch16_siglip_224": (12, 24, 24),  # pooled by attention
    "timm xcit_nano_12_p16_224": (14, 28, 32),
    "timm resnet50": (0, 0, 0),
    "timm convnext_tiny": (0, 0, 0),
}


def outline(name):
    library, model = name.split()
    with torch.device("meta"):
        return getattr(torchvision.models, model)() if library == "torchvision" else timm.create_model(model)


@pytest.mark.parametrize("name", EXPECTED)
def test_blocks_and_linears(name):
    model = outline(name)
    blocks, mlp, attention = EXPECTED[name]
    assert len(find_blocks(model)) == blocks
    if not blocks:
        with pytest.raises(UserError, match="method.scope=all"):
            linear_sites(model, "all")
        return
    roles = Counter(site.role for site in linear_sites(model, "all"))
    assert roles == {"mlp": mlp, "attention": attention}
    for site in linear_sites(model, "all"):
        assert site.name.startswith(f"{site.block}.")
        assert not any(part in site.name for part in ("head", "patch", "pool", "cpb", "downsample.reduction"))


def test_sites_of_vit_b_32():
    sites = {site.name: site for site in linear_sites(outline("torchvision vit_b_32"), "all")}
    block = "encoder.layers.encoder_layer_3"
    packed, out = sites[f"{block}.self_attention.in_proj"], sites[f"{block}.self_attention.out_proj"]
    assert (packed.in_features, packed.out_features, packed.copies, packed.block) == (768, 2304, 3, block)
    assert (out.in_features, out.out_features, out.copies, out.role) == (768, 768, 1, "attention")
    fc1 = sites[f"{block}.mlp.0"]
    assert (fc1.in_features, fc1.out_features, fc1.copies, fc1.role) == (768, 3072, 1, "mlp")


def test_every_site_has_its_weight_and_bias_though_some_have_no_module():
    model = outline("torchvision vit_b_32")
    for site in linear_sites(model, "all"):
        shapes = {name: tuple(p.shape) for name, p in site_parameters(model, site).items()}
        assert shapes == {"weight": (site.out_features, site.in_features), "bias": (site.out_features,)}
        assert (site_module(model, site) is None) == site.name.endswith(".in_proj")


def test_scopes_partition_all_in_order():
    model = outline("timm swin_tiny_patch4_window7_224")
    names = [site.name for site in linear_sites(model, "all")]
    assert sorted(s.name for scope in ("mlp", "attention") for s in linear_sites(model, scope)) == sorted(names)
    assert names == [name for name, m in model.named_modules() if name in set(names)]
    assert {s.copies for s in linear_sites(model, "attention")} == {1, 3}


@pytest.mark.parametrize(
    ("name", "copies"),
    [
        ("convit_tiny", {"qk": 2, "v": 1, "qkv": 3, "proj": 1}),
        ("pvt_v2_b0", {"q": 1, "kv": 2, "proj": 1}),
        ("levit_128s", {"qkv": 3, "kv": 2, "q": 1, "proj": 1}),
    ],
)
def test_packed_projections_count_once_each(name, copies):
    sites = linear_sites(outline(f"timm {name}"), "attention")
    assert {re.search(r"attn\w*\.(\w+)", site.name)[1]: site.copies for site in sites} == copies


def test_unknown_scope():
    with pytest.raises(UserError, match="method.scope=heads"):
        linear_sites(outline("torchvision vit_b_32"), "heads")


def test_scope_that_matches_nothing_tells_what_there_is():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(4, 12)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = Attention()

    model = nn.Sequential(Block(), Block())
    assert len(linear_sites(model, "attention")) == 2
    with pytest.raises(UserError, match="method.scope=mlp.*attention"):
        linear_sites(model, "mlp")


@pytest.mark.parametrize(
    "name", ["torchvision vit_b_32", "torchvision swin_t", "timm deit_tiny_patch16_224", "timm levit_128s"]
)
def test_head(name):
    model = outline(name)
    linears = [m for m in head_module(model).modules() if isinstance(m, nn.Linear)]
    assert linears and all(m.out_features == 1000 for m in linears)


def test_model_without_a_head():
    with pytest.raises(UserError, match="model.name"):
        head_module(nn.Linear(2, 2))


@pytest.mark.parametrize("name", small.MODELS)
def test_first_convolution_is_the_patch_embedding(name):
    model = small.build(name)
    found, convolution = first_convolution(model)
    assert convolution.in_channels == 3 and model.get_submodule(found) is convolution
    assert first_convolution(nn.Linear(2, 2)) is None
