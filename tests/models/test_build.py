import dataclasses
import os
import sys
import urllib.error
from pathlib import Path

import pytest
import timm
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torchvision.models import VisionTransformer

from wasi.errors import UserError
from wasi.models import download
from wasi.models.build import build_model
from wasi.models.input_spec import PATCHES, architecture_of, input_spec, library_of
from wasi.models.loading import load_file
from wasi.models.structure import head_module, linear_sites
from wasi.models.torchvision_models import adapt, head_prefixes

ROOT = Path(__file__).parents[2]
DEIT = "deit_tiny_patch16_224"
MICRO = {"name": "vit_micro", "library": "wasi"}


def config(name, library, weights="random", **more):
    return OmegaConf.create({"name": name, "library": library, "weights": str(weights), **more})


def build(cfg, size=None, classes=10, seed=0):
    return build_model(cfg, classes, input_spec(cfg, size), seed)


@pytest.mark.parametrize(
    "name, library, size, mean",
    [
        ("vit_b_32", "torchvision", 224, 0.485),
        ("swin_t", "torchvision", 224, 0.485),
        (DEIT, "timm", 224, 0.485),
        ("vit_small_patch14_dinov2.lvd142m", "timm", 518, 0.485),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "timm", 224, 0.5),
    ],
)
def test_spec_is_that_of_the_weights(name, library, size, mean):
    spec = input_spec(config(name, library), None)
    assert spec.image_size == size and spec.mean[0] == pytest.approx(mean)
    assert len(spec.mean) == len(spec.std) == 3 and spec.interpolation in ("bilinear", "bicubic")


def test_image_size_overrides_the_size_alone():
    default, small = (input_spec(config("vit_b_32", "torchvision"), size) for size in (None, 64))
    assert small.image_size == 64
    assert (small.mean, small.std) == (default.mean, default.std)


@pytest.mark.parametrize(
    "name, library, size",
    [
        ("vit_b_32", "torchvision", 100),
        ("swin_t", "torchvision", 30),
        (DEIT, "timm", 100),
        ("vit_small_patch14_dinov2.lvd142m", "timm", 57),
        ("hiera_tiny_224", "timm", 100),
        ("vit_b_32", "torchvision", 0),
        (DEIT, "timm", -16),
    ],
)
def test_size_that_does_not_fit(name, library, size):
    with pytest.raises(UserError, match=f"dataset.image_size={size}"):
        input_spec(config(name, library), size)


def test_wrong_size_of_a_known_model_is_told_without_importing_a_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "wasi.models.torchvision_models", None)
    with pytest.raises(UserError, match="32"):
        input_spec(config("vit_b_32", "torchvision"), 100)


@pytest.mark.parametrize(
    "name, library, size",
    [
        ("vit_b_32", "torchvision", 32),
        ("swin_t", "torchvision", 36),
        (DEIT, "timm", 32),
        ("swin_tiny_patch4_window7_224", "timm", 36),
        ("resnet18", "timm", 30),
    ],
)
def test_forward_at_another_size(name, library, size):
    model = build(config(name, library), size, classes=3).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, size, size)).shape == (1, 3)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any("ShiftedWindow" in type(module).__name__ for module in model.modules())


def test_heads_are_fresh_and_pass_gradient():
    for name, library in [("vit_b_32", "torchvision"), ("swin_t", "torchvision"), (DEIT, "timm")]:
        head = head_module(build(config(name, library), 32))
        weight = next(m for m in head.modules() if isinstance(m, torch.nn.Linear)).weight
        assert weight.shape[0] == 10 and 0.005 < weight.std() < 0.1


def test_seed_decides_and_global_state_is_untouched():
    state = torch.get_rng_state()
    first, again, other = (build(config(DEIT, "timm"), 32, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


def test_surrogate_changes_the_blocks_alone():
    random, surrogate = (build(config(**MICRO, weights=weights)) for weights in ("random", "surrogate"))
    other = surrogate.state_dict()
    different = {key for key, value in random.state_dict().items() if not torch.equal(value, other[key])}
    assert different == {f"{site.name}.weight" for site in linear_sites(random, "all")}


@pytest.mark.parametrize(
    "name, library", [("vit_b_99", "torchvision"), ("resnet18", "torchvision"), ("big", "wasi")]
)
def test_unknown_name(name, library):
    with pytest.raises(UserError, match=f"model.name={name}"):
        input_spec(config(name, library), None)


def test_unknown_timm_name_suggests_close_ones():
    with pytest.raises(UserError, match=r"model.name=deit_tinny_patch16_224.*deit_tiny_patch16_224"):
        input_spec(config("deit_tinny_patch16_224", "timm"), None)
    with pytest.raises(UserError, match=r"lvd142m"):
        input_spec(config("vit_small_patch14_dinov2.nope", "timm"), None)


def test_timm_name_left_open():
    with pytest.raises(UserError, match="model.name"):
        input_spec(config("???", "timm"), None)


OPTIONS = sorted(path for path in (ROOT / "conf" / "model").glob("*.yaml") if path.stem != "timm")


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_patch_known_beforehand_is_that_of_the_model(path):
    cfg = OmegaConf.load(path)
    assert cfg.name == path.stem and cfg.weights == "pretrained"
    assert input_spec(cfg, 8 * PATCHES[cfg.name]).image_size == 8 * PATCHES[cfg.name]
    with torch.device("meta"):
        model = library_of(cfg).create(architecture_of(cfg), 8 * PATCHES[cfg.name], 3)
    first = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    assert first.kernel_size == first.stride == (PATCHES[cfg.name],) * 2


def test_unknown_library():
    with pytest.raises(UserError, match="model.library=keras"):
        input_spec(config("x", "keras"), None)


# ---- weights from a file


def saved(tmp_path, cfg, size, change=lambda state: state, seed=5):
    model = build(cfg, size, seed=seed)
    state = change({key: value.clone() for key, value in model.state_dict().items()})
    save_file(state, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors", model.state_dict()


def test_file_in_half_precision_of_another_size_and_class_count(tmp_path):
    path, source = saved(tmp_path, config(DEIT, "timm"), 64, lambda s: {k: v.half() for k, v in s.items()})
    model = build(config(DEIT, "timm", path), 96, classes=3)
    assert model.pos_embed.shape[1] == 1 + 6 * 6 and model.head.weight.shape[0] == 3
    for key, value in model.state_dict().items():
        assert value.dtype == torch.float32
        if key != "pos_embed" and not key.startswith("head."):
            assert torch.equal(value, source[key].half().float()), key


def small_vit(size, classes):
    return VisionTransformer(size, 8, 2, 2, 12, 24, num_classes=classes)


def test_torchvision_file_in_half_precision_of_another_size_and_class_count(tmp_path):
    source = {key: value.half() for key, value in small_vit(32, 5).state_dict().items()}
    save_file(source, tmp_path / "weights.safetensors")
    model = small_vit(48, 3)
    head = model.heads.head.weight.clone()
    load_file(model, tmp_path / "weights.safetensors", head_prefixes(model), adapt)
    assert model.encoder.pos_embedding.shape[1] == 1 + 6 * 6
    assert torch.equal(model.encoder.pos_embedding[:, 0], source["encoder.pos_embedding"][:, 0].float())
    assert torch.equal(model.heads.head.weight, head)
    assert torch.equal(model.conv_proj.weight, source["conv_proj.weight"].float())


def test_file_of_this_class_count_keeps_its_head_and_without_one_gets_a_fresh_one(tmp_path):
    path, source = saved(tmp_path, config(**MICRO), None)
    assert torch.equal(build(config(**MICRO, weights=path)).head.weight, source["head.weight"])
    path, source = saved(tmp_path, config(**MICRO), None, without("head."))
    fresh = build(config(**MICRO, weights=path))
    assert torch.equal(fresh.head.weight, build(config(**MICRO)).head.weight)
    assert torch.equal(fresh.norm.weight, source["norm.weight"])


def without(prefix):
    return lambda state: {key: value for key, value in state.items() if not key.startswith(prefix)}


def test_key_names_of_torchvision_s_published_files(tmp_path):
    source = small_vit(32, 5).state_dict()
    old = {k.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): v for k, v in source.items()}
    save_file(old, tmp_path / "weights.safetensors")
    model = small_vit(32, 5)
    load_file(model, tmp_path / "weights.safetensors", head_prefixes(model), adapt)
    assert all(torch.equal(value, source[key]) for key, value in model.state_dict().items())


def wrong_shape(state):
    return {**state, "blocks.0.mlp.fc1.weight": torch.zeros(3, 3)}


@pytest.mark.parametrize(
    "change, message",
    [
        (wrong_shape, "blocks.0.mlp.fc1.weight"),
        (without("blocks.3.mlp."), "4 missing .blocks.3.mlp"),
        (without("pos_embed"), "pos_embed"),
        (lambda s: {**s, "blocks.9.norm1.weight": torch.zeros(96)}, "1 unknown .blocks.9"),
        (lambda s: {**s, "blocks.0.mlp.fc1.L": torch.zeros(2, 2)}, "low-rank factors"),
    ],
)
def test_file_that_does_not_fit(tmp_path, change, message):
    path, _ = saved(tmp_path, config(**MICRO), None, change)
    with pytest.raises(UserError, match=f"model.weights=.*{message}") as caught:
        build(config(**MICRO, weights=path))
    assert "\n" not in str(caught.value)


def test_file_of_another_model(tmp_path):
    path, _ = saved(tmp_path, config(**MICRO), None)
    for name, library in [("vit_b_32", "torchvision"), (DEIT, "timm"), ("swin_t", "torchvision")]:
        with pytest.raises(UserError, match="model.weights=") as caught:
            build(config(name, library, path), 32)
        assert "\n" not in str(caught.value)


def test_path_that_is_no_weights_file(tmp_path):
    (tmp_path / "text.safetensors").write_text("these are no weights, only words")
    (tmp_path / "empty.safetensors").touch()
    torch.save({"a": torch.zeros(1)}, tmp_path / "torch.pth")
    path, _ = saved(tmp_path, config(**MICRO), None)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-1000])
    for file in ("text.safetensors", "empty.safetensors", "torch.pth", "cut.safetensors", "absent", ""):
        with pytest.raises(UserError, match="model.weights=") as caught:
            build(config(**MICRO, weights=tmp_path / file))
        assert "\n" not in str(caught.value)


# ---- weights from the network


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No address answers, and nothing was downloaded before."""

    def refuse(request, timeout):
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr(download.urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **kwargs: None)


@pytest.mark.parametrize("name, library", [("vit_b_32", "torchvision"), (DEIT, "timm")])
def test_weights_that_cannot_be_downloaded(no_network, name, library):
    with pytest.raises(UserError, match=f"model.weights=pretrained.*safetensors.*{name}.*no network") as caught:
        build(config(name, library, "pretrained"))
    assert "\n" not in str(caught.value)


def test_timm_weights_from_an_earlier_download_need_no_network(no_network, monkeypatch, tmp_path):
    path, source = saved(tmp_path, config(DEIT, "timm"), 64)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **kwargs: str(path))
    model = build(config(DEIT, "timm", "pretrained"), 64)
    assert torch.equal(model.blocks[5].mlp.fc1.weight, source["blocks.5.mlp.fc1.weight"])
    assert not torch.equal(model.head.weight, source["head.weight"])


def test_torchvision_weights_from_an_earlier_download_need_no_network(no_network, tmp_path):
    source = build(config("swin_t", "torchvision"), 32, classes=1000, seed=5).state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(source, tmp_path / "checkpoints" / "swin_t-704ceda3.pth")
    model = build(config("swin_t", "torchvision", "pretrained"), 32)
    assert torch.equal(model.features[5][3].mlp[0].weight, source["features.5.3.mlp.0.weight"])
    assert model.head.weight.shape == (10, 768)


def test_timm_weights_that_have_a_url_alone_from_an_earlier_download_need_no_network(no_network, monkeypatch, tmp_path):
    path, source = saved(tmp_path, config(DEIT, "timm"), 64)
    published = dataclasses.replace(timm.models.get_pretrained_cfg(DEIT), hf_hub_id=None, url="https://w.org/d.pth?x=1")
    monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: published)
    create = timm.create_model
    only_url = {"hf_hub_id": None, "url": published.url}
    monkeypatch.setattr(
        timm, "create_model", lambda name, **options: create(name, **{**options, "pretrained_cfg_overlay": only_url})
    )
    with pytest.raises(UserError, match=r"could not be downloaded from https://w.org/d.pth\?x=1 \(no network in this"):
        build(config(DEIT, "timm", "pretrained"), 64)
    (tmp_path / "checkpoints").mkdir()
    torch.save(source, tmp_path / "checkpoints" / "d.pth")
    model = build(config(DEIT, "timm", "pretrained"), 64)
    assert torch.equal(model.blocks[5].mlp.fc1.weight, source["blocks.5.mlp.fc1.weight"])


class Command:
    """Unpickled, it runs a command; a file of tensors alone has none."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_torchvision_weights_that_are_more_than_tensors_are_refused(no_network, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save({"a": Command(tmp_path / "ran")}, tmp_path / "checkpoints" / "swin_t-704ceda3.pth")
    with pytest.raises(UserError, match="model.weights=pretrained"):
        build(config("swin_t", "torchvision", "pretrained"), 32)
    assert not (tmp_path / "ran").exists()


def test_timm_model_without_published_weights():
    with pytest.raises(UserError, match="timm has none"):
        build(config("vit_base_patch16_18x2_224", "timm", "pretrained"))


# ---- the real DINOv2 weights that are shared beside the repository

SHARED = Path(os.environ.get("WASI_SHARED", ROOT.parent / "shared"))
DINOV2 = SHARED / "pretrained" / "dinov2_vits14.safetensors"


@pytest.mark.skipif(not DINOV2.is_file(), reason="no shared/pretrained/dinov2_vits14.safetensors")
def test_dinov2_from_a_file_at_56_pixels():
    cfg = OmegaConf.load(ROOT / "conf" / "model" / "dinov2_vits14.yaml")
    cfg.weights = str(DINOV2)
    spec = input_spec(cfg, 56)
    assert spec.image_size == 56
    model = build_model(cfg, 10, spec, seed=0).eval()
    assert model.pos_embed.shape == (1, 17, 384)
    norms = [model.get_submodule(s.name).weight.norm() for s in linear_sites(model, "all")]
    assert len(norms) == 48 and all(torch.isfinite(n) and n > 1 for n in norms)
    with torch.no_grad():
        dark, bright = model.forward_features(torch.stack([torch.zeros(3, 56, 56), torch.ones(3, 56, 56)]))
    assert torch.isfinite(dark).all() and not torch.allclose(dark, bright, atol=0.1)
