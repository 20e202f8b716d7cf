import copy

import pytest
import torch
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from wasi.errors import UserError
from wasi.models.attention import replace_window_attention, unpack_attention
from wasi.models.structure import linear_sites


def vit(**options):
    return VisionTransformer(16, 8, 2, 2, 12, 24, num_classes=5, **options)


def swin(window=(2, 2), **options):
    options = {"stochastic_depth_prob": 0.0, "num_classes": 5, **options}
    return SwinTransformer([4, 4], 8, [2, 2], [2, 4], list(window), **options)


def swin_v2(**options):
    return swin(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2, **options)


def randomized(model):
    """No zero anywhere (torchvision starts with zero biases and a zero head), double precision."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.double().train()


CASES = {
    "vit": (vit, 16),
    "swin": (swin, 32),
    "swin, padded windows": (lambda: swin(window=(3, 3)), 28),
    "swin, oblong window wider than the map": (lambda: swin(window=(2, 9)), 32),
    "swin v2": (swin_v2, 32),
}


@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_equal_the_original(case):
    build, size = CASES[case]
    original = randomized(build())
    opened = unpack_attention(copy.deepcopy(original))
    images = torch.randn(3, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected, actual = original(images), opened(images)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    (expected * weights).sum().backward()
    (actual * weights).sum().backward()
    want = sorted(p.grad.flatten().tolist() for p in original.parameters())
    have = sorted(p.grad.flatten().tolist() for p in opened.parameters())
    assert len(want) == len(have)
    for one, other in zip(want, have, strict=True):
        torch.testing.assert_close(torch.tensor(other), torch.tensor(one), rtol=1e-7, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(opened.eval()(images), original.eval()(images), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("build", [vit, swin, swin_v2])
def test_every_linear_in_scope_is_called_and_parameters_are_shared(build):
    original = build()
    before = {id(p) for p in original.parameters()}
    opened = unpack_attention(original)
    assert {id(p) for p in opened.parameters()} == before
    sites = linear_sites(opened, "all")
    calls = dict.fromkeys((site.name for site in sites), 0)
    for name in calls:
        layer = opened.get_submodule(name)
        assert type(layer) is torch.nn.Linear

        def count(module, args, name=name):
            calls[name] += 1

        layer.register_forward_pre_hook(count)
    opened(torch.randn(1, 3, 16 if build is vit else 32, 16 if build is vit else 32))
    assert set(calls.values()) == {1}


def test_names():
    names = {site.name for site in linear_sites(unpack_attention(vit()), "attention")}
    assert "encoder.layers.encoder_layer_0.self_attention.qkv" in names
    assert "encoder.layers.encoder_layer_0.self_attention.proj" in names
    state = unpack_attention(swin()).state_dict()
    assert {"features.1.0.attn.qkv.weight", "features.1.0.attn.proj.bias"} <= state.keys()
    assert set(state) == set(swin().state_dict())


@pytest.mark.parametrize("build", [swin, swin_v2])
def test_every_method_gets_the_same_attention_of_swin(build):
    model = replace_window_attention(build())
    kinds = [type(module) for module in model.modules()]
    unpack_attention(model)
    assert kinds == [type(module) for module in model.modules()] != [type(module) for module in build().modules()]
    assert [type(module) for module in replace_window_attention(vit()).modules()] == [type(m) for m in vit().modules()]


def test_swin_linears_see_the_batch_as_first_of_four_modes():
    model, shapes = unpack_attention(swin()), []
    for site in linear_sites(model, "attention"):
        model.get_submodule(site.name).register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    model(torch.randn(3, 3, 32, 32))
    assert {(len(shape), shape[0]) for shape in shapes} == {(4, 3)}


@pytest.mark.parametrize("build, size", [(vit, 16), (swin, 32), (swin_v2, 32)])
def test_attention_dropout_is_kept(build, size):
    torch.manual_seed(0)
    model = unpack_attention(build(attention_dropout=0.5))
    torch.nn.init.normal_(model.heads.head.weight if build is vit else model.head.weight)
    images = torch.randn(2, 3, size, size)
    assert not torch.equal(model.train()(images), model.train()(images))
    assert torch.equal(model.eval()(images), model.eval()(images))


def test_output_dropout_of_swin_is_kept():
    torch.manual_seed(0)
    attention = unpack_attention(swin(dropout=0.9)).train().features[1][0].attn
    assert (attention(torch.randn(2, 4, 4, 8)) == 0).float().mean() > 0.7


def test_freezing_and_mode_carry_over():
    original = vit().eval()
    original.encoder.layers[0].self_attention.in_proj_weight.requires_grad_(False)
    attention = unpack_attention(original).encoder.layers[0].self_attention
    assert not attention.qkv.weight.requires_grad and attention.proj.weight.requires_grad
    assert not attention.training


def test_attention_that_cannot_be_opened():
    model = vit()
    model.encoder.layers[0].self_attention = torch.nn.MultiheadAttention(12, 2, add_bias_kv=True, batch_first=True)
    with pytest.raises(UserError, match="method.scope"):
        unpack_attention(model)


@pytest.mark.parametrize("kind", ["beit", "eva", "swin_v2"])
def test_timm_models_that_read_the_weight_directly(kind):
    from timm.models import beit, eva, swin_transformer_v2

    torch.manual_seed(0)
    small = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "num_classes": 5}
    model = {
        "beit": lambda: beit.Beit(**small, depth=2, num_heads=2, use_rel_pos_bias=True),
        "eva": lambda: eva.Eva(**small, depth=2, num_heads=2),
        "swin_v2": lambda: swin_transformer_v2.SwinTransformerV2(
            **small, depths=(2,), num_heads=(2,), window_size=2, drop_path_rate=0.0
        ),
    }[kind]()
    images = torch.randn(2, 3, 16, 16)
    expected = model.eval()(images)
    torch.testing.assert_close(unpack_attention(model)(images), expected)
    seen = set()
    for site in linear_sites(model, "all"):
        model.get_submodule(site.name).register_forward_pre_hook(lambda _, args, name=site.name: seen.add(name))
    model(images)
    assert seen == {site.name for site in linear_sites(model, "all")}
