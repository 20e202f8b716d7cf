"""Packages that are not installed, and optimizers without anything to step on, are told before data are loaded."""

import sys

import pytest

from wasi.config.declared import method_names
from wasi.config.needs import check_needs
from wasi.errors import UserError
from wasi.optional import optional

PACKAGES = {
    ("optimizer", "galore"): "galore_torch",
    ("optimizer", "apollo"): "apollo_torch",
    ("optimizer", "adamw8bit"): "bitsandbytes",
    ("method", "peft"): "peft",
    ("method.base", "nf4"): "bitsandbytes",
}


def chosen(option, value):
    method = {"optimizer": ["method=vanilla"], "method.base": ["method=lora"]}
    return [*method.get(option, []), f"{option}={value}"]


@pytest.mark.parametrize(("option", "value"), PACKAGES)
def test_a_package_that_is_not_installed_is_told_in_the_words_of_its_import(option, value, monkeypatch, compose_config):
    package, cfg = PACKAGES[option, value], compose_config(*chosen(option, value))
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(UserError) as late:
        optional(package, option, value)
    with pytest.raises(UserError) as early:
        check_needs(cfg)
    assert str(early.value) == str(late.value) and f"{option}={value}: allowed is with {package}" in str(early.value)
    check_needs(cfg, {option})  # left to the jobs
    check_needs(compose_config())


@pytest.mark.parametrize("name", method_names())
def test_a_projecting_optimizer_needs_dense_weights_that_train(name, monkeypatch, compose_config):
    """Refused before the model is there exactly where the model has none."""
    from tests.small import applied
    from wasi.training.baselines import _MARK, mark_projected

    monkeypatch.setattr("wasi.config.needs.check_installed", lambda *_: None)
    if name == "peft":
        pytest.importorskip("peft")
    model = applied("timm_vit", name)
    mark_projected(model, "all")
    cfg = compose_config(f"method={name}", "optimizer=galore")
    if any(hasattr(parameter, _MARK) for parameter in model.parameters()):
        return check_needs(cfg)
    with pytest.raises(UserError, match="^optimizer=galore: allowed is with a method that trains dense weights"):
        check_needs(cfg)
    check_needs(cfg, {"method"})


def test_truncated_dense_weights_can_be_projected(monkeypatch, compose_config):
    monkeypatch.setattr("wasi.config.needs.check_installed", lambda *_: None)
    check_needs(compose_config("method=wsi", "method.update=svd", "optimizer=apollo"))
