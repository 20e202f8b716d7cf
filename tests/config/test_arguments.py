"""Options that a library's class takes as its arguments."""

import inspect

import pytest
import torch
from omegaconf import OmegaConf

from wasi.config.arguments import default_arguments, target_of
from wasi.errors import UserError


def test_the_class_that_takes_the_options():
    from torch.optim import SGD

    options = OmegaConf.create({"_target_": "torch.optim.SGD", "lr": 0.1, "ratio": 2})
    assert target_of("optimizer", options, beside=["ratio"]) is SGD


def _any(params, **options):
    return params, options


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        ("torch.optim.SGD", {"foo": 1}, r"^optimizer.foo=1: allowed is one of .*optimizer.lr, .*torch.optim.SGD$"),
        ("torch.optim.Nope", {}, r"^optimizer._target_=torch.optim.Nope: allowed is the dotted path .*Nope"),
        ("nowhere.SGD", {}, r"^optimizer._target_=nowhere.SGD: allowed is the dotted path .*nowhere"),
        ("torch.optim", {}, r"^optimizer._target_=torch.optim: allowed is the dotted path "),
    ],
)
def test_what_it_does_not_take_is_refused(target, given, message):
    with pytest.raises(UserError, match=message) as found:
        target_of("optimizer", OmegaConf.create({"_target_": target, "lr": 0.1, **given}))
    assert "optimizer.params" not in str(found.value)  # no option, but what the optimizer works on


def test_what_is_filled_in_is_no_option():
    options = OmegaConf.create({"_target_": "torch.optim.SGD", "lr": 0.1, "params": 3})
    with pytest.raises(UserError, match=r"^optimizer.params=3: allowed is one of ") as found:
        target_of("optimizer", options, filled=["params"])
    assert "optimizer.params," not in str(found.value)


def test_a_function_that_takes_any_argument_is_left_to_itself():
    assert target_of("optimizer", OmegaConf.create({"_target_": "tests.config.test_arguments._any", "lr": 0.1})) is _any


_TORCHS = [name for name, kind in vars(torch.optim).items() if isinstance(kind, type) and name != "Optimizer"]


@pytest.mark.parametrize("name", _TORCHS)
def test_defaults_read_from_the_source_are_those_of_the_class(name):
    parameters = inspect.signature(getattr(torch.optim, name)).parameters
    defaults = {key: found.default for key, found in parameters.items() if found.default is not found.empty}
    expected = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    found = default_arguments(f"torch.optim.{name}")
    assert found and expected | found == expected
    assert [key for key, value in expected.items() if isinstance(value, bool) and key not in found] == []


@pytest.mark.parametrize("path", ["SGD", "nowhere.SGD", "torch.optim.Nope", "torch.nowhere.SGD", "sys.SGD", ""])
def test_what_is_not_found_has_no_defaults(path):
    assert default_arguments(path) == {}
