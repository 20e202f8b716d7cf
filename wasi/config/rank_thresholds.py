"""The thresholds that decide a method's ranks, read from a resolved configuration."""

from collections.abc import Mapping
from typing import Any

from wasi.config.declared import rank_option_paths
from wasi.config.files import select

# The `rank` options that thresholds and labels are made of, and the option of a method that holds each unless its YAML
# names another.
_OPTIONS = {
    "weight_epsilon": "weight_epsilon",
    "keep_ratio": "keep_ratio",
    "activation_selection": "activations.selection",
    "activation_epsilon": "activations.epsilon",
    "activation_ranks": "activations.ranks",
}


def rank_options(config: Mapping) -> set[str]:
    """Return the method's options, as dotted keys, that decide ranks and that the labels of a row show."""
    return {"method.activations._target_", *(_path(config, option) for option in _OPTIONS)}


def rank_option(config: Mapping, option: str) -> Any:
    """Return the value that the method has for `activation_ranks`, say, of `rank`; None if it has no such option."""
    return select(config, _path(config, option))


def _path(config: Mapping, option: str) -> str:
    """Return the dotted key under which the method's YAML has an option of `rank`."""
    paths = rank_option_paths(str(select(config, "method.name")))
    return f"method.{paths.get(option, _OPTIONS[option])}"


def weight_epsilon(config: Mapping) -> float | None:
    """Return the threshold of the weights; None if the method has none or was given a share of parameters instead."""
    return rank_option(config, "weight_epsilon") if share(config) is None else None


def activation_epsilon(config: Mapping) -> float | None:
    """Return the threshold of the activations; None if none is compressed or their ranks are chosen in another way.

    A perplexity search is another way, also without a bound of its own, which it derives from this threshold then.
    """
    by_epsilon = rank_option(config, "activation_selection") in (None, "epsilon")
    return rank_option(config, "activation_epsilon") if by_epsilon else None


def threshold(config: Mapping) -> float | None:
    """Return the threshold at which figures place a row: the weights' or, if these are dense, the activations'."""
    if share(config) is not None:
        return None
    found = weight_epsilon(config)
    return activation_epsilon(config) if found is None else found


def share(config: Mapping) -> float | None:
    """Return the share of parameters that is kept; None unless it was given in place of a threshold."""
    given = (rank_option(config, "keep_ratio"), select(config, "method.parameter_ratio"))
    return next((found for found in given if found is not None), None)
