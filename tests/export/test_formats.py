"""Exported files against the trained model, in the runtimes that they are made for."""

import importlib.util
import json
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.models.saving import SPEC, logits, saved, serve
from tests.small import MODELS, batch
from wasi.export import formats
from wasi.export.check import Deviates, compare
from wasi.models.header import METADATA_KEY, ModelHeader
from wasi.models.saved import open_model

EACH = [(kind, "wasi") for kind in MODELS] + [("torchvision_vit", "vanilla"), ("torchvision_vit", "svd_llm")]


def needs(form: str) -> None:
    if form == "onnx":
        for package in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(package)


@pytest.mark.parametrize(("kind", "method"), EACH)
def test_a_program_computes_what_the_trained_model_does(kind, method, tmp_path, monkeypatch):
    serve(monkeypatch, kind)
    trained, _ = saved(tmp_path, kind, method)
    program = formats.exported_program(open_model(tmp_path)[0], SPEC.image_size).module()
    for size in (1, 3):
        images = batch(size)[0]
        with torch.no_grad():
            found = program(images)  # it has no eval()
        torch.testing.assert_close(found, logits(trained, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "method", "form"),
    [
        *[(kind, method, form) for kind, method in EACH for form in ("dense", "onnx")],
        ("torchvision_vit", "wasi", "torch"),  # in a process without this package
    ],
)
def test_an_exported_file_is_the_trained_model(kind, method, form, tmp_path, monkeypatch):
    needs(form)
    serve(monkeypatch, kind)
    trained, _ = saved(tmp_path, kind, method)
    model, header = open_model(tmp_path)
    file = tmp_path / "exported"
    formats.write(file, form, tmp_path, model, header)
    found = compare(file, form, trained, header)  # in batches of one and of three
    assert found.difference < 1e-5 < found.largest
    assert found.exported_ms > 0


@pytest.mark.parametrize("form", ["dense", "torch"])
def test_a_full_disk_is_an_error_of_the_system(form, tmp_path, monkeypatch):
    serve(monkeypatch, "torchvision_vit")
    saved(tmp_path, "torchvision_vit", "wasi")
    model, header = open_model(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # writing beyond fails as on a full disk
    try:
        with pytest.raises(OSError):
            formats.write(tmp_path / "exported", form, tmp_path, model, header)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("form", ["dense", "onnx"])
def test_another_model_is_told_apart(form, tmp_path, monkeypatch):
    needs(form)
    serve(monkeypatch, "timm_vit")
    saved(tmp_path, "timm_vit", "wsi")
    model, header = open_model(tmp_path)
    formats.write(tmp_path / "exported", form, tmp_path, model, header)
    with torch.no_grad():
        model.head.bias[0] += 0.5
    with pytest.raises(Deviates, match="differ"):
        compare(tmp_path / "exported", form, model, header)


def test_a_program_keeps_thin_products_and_its_header(tmp_path, monkeypatch):
    serve(monkeypatch, "timm_vit")
    saved(tmp_path, "timm_vit", "wasi")
    model, header = open_model(tmp_path)
    formats.write(tmp_path / "model.pt2", "torch", tmp_path, model, header)
    files = {f"{METADATA_KEY}.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=files)
    assert json.loads(files[f"{METADATA_KEY}.json"])["classes"] == list(header.classes)
    name = header.layers[0]["name"]
    assert {f"{name}.L", f"{name}.R"} <= program.state_dict.keys()
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert len([call for call in calls if "linear" in call]) == 2 * len(header.layers) + 1  # and the head


def test_an_onnx_file_is_whole_and_has_a_free_batch_dimension(tmp_path, monkeypatch):
    needs("onnx")
    import onnx

    serve(monkeypatch, "swin")
    saved(tmp_path, "swin", "wasi")
    model, header = open_model(tmp_path)
    formats.write(tmp_path / "model.onnx", "onnx", tmp_path, model, header)
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    (image,) = onnx.load(tmp_path / "model.onnx").graph.input
    sizes = [dim.dim_value or dim.dim_param for dim in image.type.tensor_type.shape.dim]
    assert (image.name, sizes) == ("images", ["batch", 3, SPEC.image_size, SPEC.image_size])
    (logits,) = onnx.load(tmp_path / "model.onnx").graph.output
    assert (logits.name, logits.type.tensor_type.shape.dim[0].dim_param) == ("logits", "batch")
    assert not (tmp_path / "model.onnx.data").exists()


def test_dense_weights_are_torchvisions(tmp_path, monkeypatch):
    serve(monkeypatch, "torchvision_vit")
    trained, _ = saved(tmp_path, "torchvision_vit", "wasi")
    model, header = open_model(tmp_path)
    formats.write(tmp_path / "dense.safetensors", "dense", tmp_path, model, header)
    plain = MODELS["torchvision_vit"]()
    assert "encoder.layers.encoder_layer_0.self_attention.in_proj_weight" in plain.state_dict()
    plain.load_state_dict(load_file(tmp_path / "dense.safetensors"))
    with safe_open(tmp_path / "dense.safetensors", "pt") as file:
        assert ModelHeader.from_json(file.metadata()["header"]) == header  # class names, size and normalisation
    images = batch(2)[0]
    torch.testing.assert_close(logits(plain, images), logits(trained, images), rtol=1e-4, atol=1e-5)


def test_a_program_of_torchs_is_the_default():
    from wasi.export.__main__ import _parser

    assert _parser().parse_args(["RUN"]).format == "torch"


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is not None, reason="onnxscript is installed here")
def test_onnx_without_its_packages_is_refused():
    from wasi.errors import UserError
    from wasi.export.__main__ import _check_packages

    with pytest.raises(UserError, match="--format=onnx.*requirements-export.txt"):
        _check_packages("onnx")
