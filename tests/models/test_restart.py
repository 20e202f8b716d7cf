"""Training that starts from a run's model."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from tests.models.saving import LIBRARIES, NAMES, SPEC, logits, saved, serve
from tests.small import CLASSES, MODELS, batch, method
from wasi.errors import UserError
from wasi.layers.base import LowRankLayer
from wasi.models.build import build_model
from wasi.models.input_spec import input_spec

IMAGES = batch(3)[0]


def config(kind: str, weights, **more):
    library = LIBRARIES[kind].__name__.rpartition(".")[2].removesuffix("_models")
    return OmegaConf.create({"name": kind, "library": library, "weights": str(weights), **more})


def low_rank(model: nn.Module) -> dict[str, LowRankLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LowRankLayer)}


@pytest.fixture
def started(tmp_path, monkeypatch):
    """`started(kind, made_by, classes, names)`: the trained model, and one built from its file."""

    def start(kind: str, made_by: str, classes: int = CLASSES, names=None) -> tuple[nn.Module, nn.Module]:
        serve(monkeypatch, kind)
        monkeypatch.setattr(LIBRARIES[kind], "head_prefixes", lambda model: ("head", "heads"))
        model, _ = saved(tmp_path, kind, made_by)
        return model, build_model(config(kind, tmp_path), classes, SPEC, seed=3, classes=names)

    return start


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("made_by", "continued"), [("wasi", "wasi"), ("wsi", "wasi"), ("svd_llm", "svd_llm")])
def test_factors_stay_factors_at_the_files_ranks(kind, made_by, continued, started):
    model, built = started(kind, made_by)
    torch.testing.assert_close(logits(built, IMAGES), logits(model, IMAGES), rtol=1e-4, atol=1e-5)
    again = method(continued, epsilon=0.3).apply(built, [batch()])  # a threshold that would give other ranks
    torch.testing.assert_close(logits(again, IMAGES), logits(model, IMAGES), rtol=1e-4, atol=1e-5)
    before, after = low_rank(model), low_rank(again)
    assert before.keys() == after.keys()
    for name, layer in after.items():
        assert layer.weight_rank == before[name].weight_rank, name
        left = layer.weight_factors()[0]
        torch.testing.assert_close(left.mT @ left, torch.eye(left.shape[1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("init", ["output", "features"])
def test_a_start_on_calibration_data_leaves_given_factors_alone(init, started):
    model, built = started("timm_vit", "wasi")
    again = method("wasi", init=init).apply(built, [batch()])
    torch.testing.assert_close(logits(again, IMAGES), logits(model, IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("made_by", ["lora", "wasi"])
def test_another_method_starts_from_the_weights_in_effect(made_by, started):
    model, built = started("torchvision_vit", made_by)
    again = method("lora").apply(built, [batch()])
    torch.testing.assert_close(logits(again, IMAGES), logits(model, IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_another_number_of_classes_gets_a_fresh_head(kind, started):
    model, built = started(kind, "wasi", classes=3)
    assert logits(built, IMAGES).shape == (3, 3)
    again = method("wasi").apply(built, [batch()])
    for name, layer in low_rank(again).items():
        left, right = layer.weight_factors()
        expected = low_rank(model)[name].weight_factors()
        torch.testing.assert_close(left @ right, expected[0] @ expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("names", [("e", "d", "c", "b", "a"), tuple("vwxyz"), None])
def test_as_many_other_classes_get_a_fresh_head(names, started, tmp_path, caplog):
    model, built = started("timm_vit", "wasi", names=names)
    torch.testing.assert_close(built.blocks[0].norm1.weight, model.blocks[0].norm1.weight)
    assert torch.equal(built.head.weight, model.head.weight) == (names is None)
    output = [f"model.weights={tmp_path}: that model has other classes, so the head is new"] if names else []
    assert [r.message for r in caplog.records if r.name == "wasi.models.restart"] == output


def test_the_same_classes_keep_the_head(started, tmp_path):
    model, built = started("timm_vit", "wasi", names=NAMES)
    assert torch.equal(built.head.weight, model.head.weight)


def test_a_run_of_another_model_is_refused_before_it_is_built(tmp_path, monkeypatch):
    serve(monkeypatch, "swin")
    saved(tmp_path, "swin", "wasi")
    with pytest.raises(UserError, match="a run of vit_b_32 .*this one's model is swin"):
        input_spec(config("swin", tmp_path, architecture="vit_b_32"), None)


def test_a_runs_input_is_its_models(tmp_path, monkeypatch):
    serve(monkeypatch, "timm_vit")
    saved(tmp_path, "timm_vit", "wasi")
    assert input_spec(config("timm_vit", tmp_path), None) == SPEC
