"""Options that a library's class takes as its arguments."""

import pytest
from omegaconf import OmegaConf

from wasi.config.arguments import target_of
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
