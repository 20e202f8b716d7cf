"""Packages that are not installed are told before data are loaded."""

import sys

import pytest

from wasi.config.requirements import check_needs
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
