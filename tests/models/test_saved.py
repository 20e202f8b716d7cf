"""A trained model from its file: the same logits, in this package's modules and in the library's own."""

import json
import struct
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from tests.models.saving import LIBRARIES, SPEC, logits, saved, serve, trained
from tests.small import MODELS, batch
from wasi.errors import UserError
from wasi.layers.base import LowRankLayer
from wasi.models.header import METADATA_KEY, ModelHeader
from wasi.models.loading import read_state
from wasi.models.outline import outline, without_weights
from wasi.models.saved import dense_state, inference_state, open_model
from wasi.models.weights_file import run_header, saved_header, tensor_shapes

METHODS = ("vanilla", "lora", "svd_llm", "wsi", "wasi", "asi")
EACH = [(kind, method, "all") for kind in MODELS for method in METHODS]
EACH += [("torchvision_vit", "wasi", "mlp"), ("swin", "svd_llm", "mlp"), ("timm_vit", "lora", "attention")]
IMAGES = batch(3)[0]


def swin_v2():
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    parts = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2, "stochastic_depth_prob": 0.0}
    return SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], num_classes=5, **parts)


@pytest.mark.parametrize(("kind", "method", "scope"), EACH)
def test_an_opened_model_computes_what_the_trained_one_did(kind, method, scope, tmp_path, monkeypatch):
    serve(monkeypatch, kind)
    model, header = saved(tmp_path, kind, method, scope)
    opened, read_header = open_model(tmp_path)
    assert read_header == header == open_model(tmp_path / "model.safetensors")[1]
    assert not opened.training and not any(isinstance(m, LowRankLayer) for m in opened.modules())
    torch.testing.assert_close(logits(opened, IMAGES), logits(model, IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "method", "scope"), EACH)
def test_dense_weights_load_strictly_into_the_librarys_own_model(kind, method, scope, tmp_path, monkeypatch):
    serve(monkeypatch, kind)
    model, header = saved(tmp_path, kind, method, scope)
    plain = MODELS[kind]()
    plain.load_state_dict(dense_state(header, read_state(tmp_path, "RUN")), strict=True)
    torch.testing.assert_close(logits(plain, IMAGES), logits(model, IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scope", ["all", "mlp"])
@pytest.mark.parametrize("method", ["vanilla", "wasi"])
def test_files_of_torchvisions_swin_v2_have_the_librarys_keys(method, scope, tmp_path, monkeypatch):
    """With every scope, although its attention is replaced, which renames the biases."""
    monkeypatch.setitem(MODELS, "swin_v2", swin_v2)
    monkeypatch.setitem(LIBRARIES, "swin_v2", LIBRARIES["swin"])
    serve(monkeypatch, "swin_v2")
    model, header = saved(tmp_path, "swin_v2", method, scope)
    assert "qkv_bias" in {name.rpartition(".")[2] for name in model.state_dict()}
    plain = swin_v2()
    plain.load_state_dict(dense_state(header, read_state(tmp_path, "RUN")), strict=True)
    for other in (plain, open_model(tmp_path)[0]):
        torch.testing.assert_close(logits(other, IMAGES), logits(model, IMAGES), rtol=1e-4, atol=1e-5)


def convit():
    """Its positions are computed on the device of its weights, and it has one block with them, one without."""
    from timm.models.convit import ConVit

    return ConVit(16, 4, embed_dim=32, depth=2, num_heads=4, num_classes=5, local_up_to_layer=1)


def test_an_opened_convit_has_its_positions(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "convit", convit)
    monkeypatch.setitem(LIBRARIES, "convit", LIBRARIES["timm_vit"])
    serve(monkeypatch, "convit")
    model, _ = saved(tmp_path, "convit", "wasi")
    opened, _ = open_model(tmp_path)
    assert torch.equal(opened.blocks[0].attn.rel_indices, model.blocks[0].attn.rel_indices)
    torch.testing.assert_close(logits(opened, IMAGES), logits(model, IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_a_file_holds_two_factors_per_layer_and_nothing_of_training(kind, tmp_path, monkeypatch):
    serve(monkeypatch, kind)
    _, header = saved(tmp_path, kind, "wasi")
    keys = load_file(tmp_path / "model.safetensors").keys()
    inside = {key for key in keys if key.startswith(tuple(f"{layer['name']}." for layer in header.layers))}
    assert {key.rpartition(".")[2] for key in inside} == {"L", "R", "bias"}
    assert len([key for key in inside if key.endswith(".L")]) == len(header.layers)


def test_dense_files_have_the_librarys_keys(tmp_path, monkeypatch):
    serve(monkeypatch, "torchvision_vit")
    saved(tmp_path, "torchvision_vit", "lora")
    assert load_file(tmp_path / "model.safetensors").keys() == MODELS["torchvision_vit"]().state_dict().keys()


def test_the_header_says_what_it_takes(tmp_path, monkeypatch):
    serve(monkeypatch, "swin")
    _, header = saved(tmp_path, "swin", "svd_llm")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        content = json.loads(file.metadata()[METADATA_KEY])
    assert content["architecture"] == {"library": "torchvision", "name": "swin"}
    assert (content["format_version"], content["method"], content["scope"]) == (1, "svd_llm", "all")
    assert content["num_classes"] == len(content["classes"]) == 5
    assert content["input"] == {
        "image_size": 16, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"
    }  # fmt: skip
    ranks = {layer["name"]: layer["weight_rank"] for layer in content["layers"]}
    state = load_file(tmp_path / "model.safetensors")
    assert ranks and all(state[f"{name}.L"].shape[1] == rank for name, rank in ranks.items())
    assert ModelHeader.from_json(header.to_json()) == header


def test_an_outline_takes_no_memory_and_no_random_numbers(monkeypatch):
    serve(monkeypatch, "swin")
    _, header = trained("swin", "vanilla")
    before = torch.get_rng_state()
    model = outline(header)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())
    assert not any(parameter.is_meta for parameter in MODELS["swin"]().parameters())


def test_buffers_that_are_computed_where_the_parameters_are_get_their_values():
    """timm's Swin v2 cannot be made on `meta`."""
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    def create():
        return SwinTransformerV2(16, 4, embed_dim=16, depths=(1, 1), num_heads=(1, 2), window_size=4, num_classes=3)

    class Silent(nn.Module):
        """No error, but a buffer without values."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.register_buffer("places", torch.arange(3.0, device=self.weight.device))

    for make in (create, Silent):
        found, expected = without_weights(make), make()
        assert all(parameter.is_meta for parameter in found.parameters())
        assert [name for name, _ in found.named_parameters()] == [name for name, _ in expected.named_parameters()]
        for (name, buffer), (_, other) in zip(found.named_buffers(), expected.named_buffers(), strict=True):
            assert torch.equal(buffer, other), name


def test_saving_changes_nothing_in_the_model(tmp_path, monkeypatch):
    serve(monkeypatch, "torchvision_vit")
    model, header = trained("torchvision_vit", "wasi")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    inference_state(model, header)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def _no_model(folder):
    folder.mkdir()


def _no_safetensors(folder):
    folder.mkdir()
    (folder / "model.safetensors").write_text("weights")


def _no_header(folder):
    folder.mkdir()
    save_file({"a.L": torch.zeros(2, 2)}, folder / "model.safetensors")


def _of_another_version(folder):
    folder.mkdir()
    header = json.dumps({"format_version": 99})
    save_file({"a.L": torch.zeros(2, 2)}, folder / "model.safetensors", {METADATA_KEY: header})


def _incomplete_header(folder):
    folder.mkdir()
    header = json.dumps({"format_version": 1, "method": "wasi"})
    save_file({"a.L": torch.zeros(2, 2)}, folder / "model.safetensors", {METADATA_KEY: header})


def _header(text, folder):
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text.encode())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: None, "there is no such file"),
        (_no_model, "it has no model.safetensors"),
        (_no_safetensors, "not in safetensors format"),
        (_no_header, "not the header that a run writes"),
        (_of_another_version, "format_version is 99"),
        (_incomplete_header, "incomplete"),
        (partial(_header, '{"__metadata__": null}'), "not the header that a run writes"),
        (partial(_header, '{"__metadata__": 5}'), "not in safetensors format"),
        (partial(_header, '{"a": {"shape": 5}}'), "not in safetensors format"),
        (partial(_header, "[" * 100_000), "not in safetensors format"),
    ],
)
def test_what_is_no_runs_model_is_told_in_one_line(make, reason, tmp_path):
    make(tmp_path / "run")
    with pytest.raises(UserError, match=reason) as error:
        run_header(tmp_path / "run")
    assert str(error.value).startswith(f"RUN={tmp_path / 'run'}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("input.mean", [0.5, 0.5], "mean is not three finite numbers"),
        ("input.mean", "abc", "mean is not three finite numbers"),
        ("input.mean", [0, 0, 10**400], "mean is not three finite numbers"),
        ("input.std", [0.5, 0.5, 0], "std is not three finite numbers above 0"),
        ("input.std", [0.5, 0.5, float("nan")], "std is not three finite numbers above 0"),
        ("input.std", None, "std is not three finite numbers above 0"),
        *(("input.image_size", v, "image_size is not a whole") for v in (float("inf"), 28.5, 0, "28", True, 10**6)),
        ("input.interpolation", ["bicubic"], "interpolation is not bilinear or bicubic"),
        *(("layers", v, "layers is not a list of layers") for v in (None, [{}], ["a"], [{"name": 5}], {"name": "a"})),
        ("classes", "abc", "classes is not a list"),
        ("architecture.name", 5, "name is not text"),
        ("architecture", [], "its header is incomplete"),
        ("scope", None, "scope is not text"),
    ],
)
def test_a_damaged_header_is_told_in_one_line(option, value, reason, tmp_path):
    content = json.loads(ModelHeader("timm", "test_vit", "vanilla", "mlp", ("a", "b"), SPEC, ()).to_json())
    assert ModelHeader.from_json(json.dumps(content)).input == SPEC
    *sections, key = option.split(".")
    section = content
    for name in sections:
        section = section[name]
    section[key] = value
    save_file({"a": torch.zeros(2, 2)}, tmp_path / "model.safetensors", {METADATA_KEY: json.dumps(content)})
    with pytest.raises(UserError, match=reason) as error:
        run_header(tmp_path)
    assert str(error.value).startswith(f"RUN={tmp_path}") and "\n" not in str(error.value)


def test_a_header_that_is_nested_too_deeply_is_told_in_one_line(tmp_path):
    save_file({"a": torch.zeros(2, 2)}, tmp_path / "model.safetensors", {METADATA_KEY: "[" * 200_000})
    with pytest.raises(UserError, match="nested too deeply$"):
        run_header(tmp_path)


@pytest.mark.parametrize("read", [tensor_shapes, saved_header, run_header])
def test_a_path_that_the_system_refuses_is_told_in_one_line(read, tmp_path):
    option = "RUN" if read is run_header else "model.weights"
    for path in (f"{'x' * 300}.safetensors", str(tmp_path / ("x" * 300) / "y")):
        with pytest.raises(UserError, match=r"it cannot be read \(File name too long\)$") as error:
            read(path)
        assert str(error.value).startswith(f"{option}={path}: allowed is ")


@pytest.mark.parametrize("damage", ["cut short", "of another architecture"])
def test_a_model_that_cannot_be_opened_is_told_in_one_line(damage, tmp_path, monkeypatch):
    serve(monkeypatch, "timm_vit")
    saved(tmp_path, "timm_vit", "wasi")
    file = tmp_path / "model.safetensors"
    if damage == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        monkeypatch.setattr(LIBRARIES["timm_vit"], "create", lambda *_: MODELS["swin"]())
    with pytest.raises(UserError, match="RUN=") as error:
        open_model(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("library", "name", "reason"),
    [
        ("timm", "hf_hub:someone/model", "model.name=hf_hub:someone/model: allowed is a name of timm.list_models"),
        ("timm", "local-dir:/tmp", "model.name=local-dir:/tmp: allowed is a name of timm.list_models"),
        ("torchvision", "vit_b_32", "Input shape indivisible by patch size"),
        ("another", "vit_b_32", "model.library=another: allowed is "),
    ],
)
def test_a_header_whose_model_cannot_be_built_is_told_in_one_line(library, name, reason, tmp_path):
    header = ModelHeader(library, name, "vanilla", "mlp", ("a", "b"), replace(SPEC, image_size=28), ())
    save_file({"a": torch.zeros(2, 2)}, tmp_path / "model.safetensors", {METADATA_KEY: header.to_json()})
    with pytest.raises(UserError, match=f"that this {library} builds as {name}; {reason}") as error:
        open_model(tmp_path)
    assert str(error.value).startswith(f"RUN={tmp_path}") and "\n" not in str(error.value)


def test_a_real_timm_name(tmp_path):
    from wasi.models.saved import save_model
    from wasi.models.timm_models import create

    header = ModelHeader("timm", "test_vit.r160_in1k", "vanilla", "mlp", ("a", "b"), SPEC, ())
    model = create("test_vit.r160_in1k", 16, 2)
    save_model(tmp_path / "model.safetensors", model, header)
    opened, _ = open_model(tmp_path)
    assert torch.equal(logits(opened, IMAGES), logits(model, IMAGES))


def test_equal_models_make_equal_files(tmp_path, monkeypatch):
    serve(monkeypatch, "timm_vit")
    contents = set()
    for _ in range(8):
        saved(tmp_path, "timm_vit", "wasi")
        contents.add((tmp_path / "model.safetensors").read_bytes())
    assert len(contents) == 1
