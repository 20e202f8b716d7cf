"""docs/add_a_method.md: its example, as it stands there, is a method like any other."""

import re
import sys
from importlib import util
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tests.small import MODELS, batch, build
from wasi.config import declared
from wasi.measure.run import counts
from wasi.methods.describe import describe_layers
from wasi.models.modes import eval_mode
from wasi.models.structure import linear_sites
from wasi.report.page.figure import SHAPES
from wasi.training.build_step import build_step

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "add_a_method.md"


@pytest.fixture
def dora(tmp_path, monkeypatch):
    """Both files of the document, the class importable under the name that the YAML gives it."""
    code, yaml = (re.search(rf"```{kind}\n(.*?)```", DOCUMENT.read_text(), re.S)[1] for kind in ("python", "yaml"))
    assert len(code.splitlines()) < 60
    (tmp_path / "dora.py").write_text(code)
    (tmp_path / "dora.yaml").write_text(yaml)
    spec = util.spec_from_file_location("wasi.methods.dora", tmp_path / "dora.py")
    module = util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "wasi.methods.dora", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(declared, "_CONF", tmp_path)
    declared.appearance.cache_clear()
    cfg = OmegaConf.create({"seed": 0, "method": OmegaConf.load(tmp_path / "dora.yaml")})
    cfg.method.scope = "all"
    yield cfg
    declared.appearance.cache_clear()


@pytest.mark.parametrize("name", MODELS)
def test_it_trains_two_steps_evaluates_and_is_deployed(name, dora, compose_config):
    method = instantiate(dora.method)
    model, (images, labels) = method.apply(build(name), []), batch()
    before = build(name).eval()(images)
    assert torch.allclose(model.eval()(images), before, atol=1e-5)
    step = build_step(model, None, compose_config("optimizer.lr=0.1"), method)
    first, second = step(images, labels), step(images, labels)
    assert second.loss < first.loss
    sites = linear_sites(model, "all")
    assert {entry["type"] for entry in describe_layers(model, "all")} == {"DoraLinear"}
    start = method.apply(build(name), [])
    for site in sites:
        layer, other = model.get_submodule(site.name), start.get_submodule(site.name)
        assert torch.equal(layer.weight, other.weight)
        assert not torch.equal(layer.adapter.B, other.adapter.B)
        assert not torch.equal(layer.magnitude, other.magnitude)
        assert torch.allclose(layer.weight_factors()[0].norm(dim=1), layer.magnitude, rtol=1e-5)
    with eval_mode(model):
        unmerged = model(images)
        with method.deployed(model):
            assert torch.allclose(model(images), unmerged, atol=1e-5)
    numbers = counts(method, step, "all", (images, labels), images)
    weights = sum(site.in_features * site.out_features for site in sites)
    assert numbers["memory/paper_inference_mib"] == weights * 4 / 2**20
    assert numbers["flops/train_step"] > numbers["flops/inference"] > 0


def test_reports_know_it(dora):
    assert declared.method_names() == ["dora"] and not declared.reads_rank("dora")
    assert declared.appearance("dora") == declared.Appearance(10, "#332288", ">")


def test_the_page_draws_every_marker_that_a_class_may_declare():
    assert set(SHAPES) == set(declared.MARKERS)


def test_its_update_is_pefts(dora):
    """The same A, B and magnitude: the same outputs and gradients as DoRA of Hugging Face's peft."""
    pytest.importorskip("peft")
    from wasi.methods.peft import Peft

    method = instantiate(dora.method, lora_rank=2, lora_alpha=4)
    theirs = Peft("peft", "all", False, "dora", 2, 4, None, 1, 0).apply(build("timm_vit", dtype=torch.float64), [])
    ours = method.apply(build("timm_vit", dtype=torch.float64), [])
    images, labels = batch(dtype=torch.float64)
    pairs = []
    for site in linear_sites(ours, "all"):
        a, b = ours.get_submodule(site.name), theirs.get_submodule(site.name).layer
        torch.nn.init.normal_(a.adapter.B, std=0.1)
        with torch.no_grad():
            b.lora_A["default"].weight.copy_(a.adapter.A)
            b.lora_B["default"].weight.copy_(a.adapter.B)
        pairs += [(a.adapter.A, b.lora_A["default"].weight), (a.adapter.B, b.lora_B["default"].weight)]
        pairs += [(a.magnitude, b.lora_magnitude_vector["default"].weight)]
    for model in (ours, theirs):
        torch.nn.functional.cross_entropy(model.train()(images), labels).backward()
    for a, b in pairs:
        assert torch.allclose(a.grad, b.grad, rtol=1e-7, atol=1e-10)
