"""Which options of `rank` a method reads by interpolation, and which of these have an effect.

The method's own options that take their values from them have an effect where they have, also if given directly.
"""

from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from wasi.config.declared import RANK_OPTION, rank_option_paths
from wasi.config.files import plain

# The options that each value of `rank.activation_selection` uses.
_OF_SELECTION = {
    "epsilon": {"activation_epsilon", "token_epsilon"},
    "fixed": {"activation_ranks"},
    "perplexity": {"activation_epsilon", "perplexity_ceiling", "memory_budget_mib", "perplexity_table"},
}


def rank_options_read(cfg: DictConfig) -> set[str]:
    """Return the names of the `rank` options that `method` interpolates and that have an effect beside the others.

    >>> rank = {"activation_selection": "epsilon", "activation_epsilon": 0.8, "activation_ranks": None}
    >>> method = {"x": "${rank.activation_epsilon}", "y": ["${rank.activation_ranks}"]}
    >>> from omegaconf import OmegaConf
    >>> rank_options_read(OmegaConf.create({"rank": rank, "method": method}))
    {'activation_epsilon'}
    """
    names = set(RANK_OPTION.findall(str(plain(cfg.method))))
    return names - _without_effect(cfg)


def options_without_effect(cfg: DictConfig, given: Sequence[str]) -> list[str]:
    """Return those of the `given` options (dotted keys) without effect: of `rank`, and the method's own in their place.

    >>> from omegaconf import OmegaConf
    >>> cfg = OmegaConf.create({"rank": {"keep_ratio": 0.5, "init": "svd"}, "method": {"init": "${rank.init}"}})
    >>> options_without_effect(cfg, ["rank.init", "rank.keep_ratio", "rank"])
    ['rank.keep_ratio']
    """
    looked_at, idle = {f"rank.{name}" for name in rank_options_read(cfg)}, {f"method.{key}" for key in _idle(cfg)}
    return [option for option in given if option in idle or (option.startswith("rank.") and option not in looked_at)]


def method_as_read(cfg: DictConfig) -> dict[str, Any]:
    """Return the resolved `method` without the entries that interpolate `rank` options of no effect.

    Entries that have a value of their own in the place of such an interpolation are left out, too.
    """
    raw, resolved = plain(cfg.method), plain(cfg.method, resolve=True)
    read, idle = rank_options_read(cfg), _idle(cfg)
    return _pruned(raw, resolved, lambda key, text: key not in idle and set(RANK_OPTION.findall(text)) <= read)


def _idle(cfg: DictConfig) -> set[str]:
    """Return the method's own options, by dotted key, that take the value of a `rank` option of no effect."""
    paths = _paths(cfg)
    return {paths[option] for option in paths.keys() & _without_effect(cfg)}


def _paths(cfg: DictConfig) -> dict[str, str]:
    return rank_option_paths(str(cfg.method.get("name")))


def _without_effect(cfg: DictConfig) -> set[str]:
    rank, names = _as_read(cfg), _paths(cfg).keys() | RANK_OPTION.findall(str(plain(cfg.method)))
    every: set[str] = set().union(*_OF_SELECTION.values())
    idle = every - _OF_SELECTION.get(str(rank.get("activation_selection")), every)
    if rank.get("perplexity_ceiling") is not None or rank.get("memory_budget_mib") is not None:
        idle.add("activation_epsilon")  # without an explicit bound it is derived from this threshold
    if "keep_ratio" in names and rank.get("keep_ratio") is not None:
        idle.add("weight_epsilon")
    if "parameter_ratio" in names and rank.get("parameter_ratio") is not None:
        idle.add("weight_epsilon")
    takes_init = "init" in _paths(cfg)  # else `method.init` may mean another thing
    if takes_init and cfg.method.get("init") in ("svd", "random"):  # these use no calibration data
        idle.add("calibration_batches")
    return idle


def _as_read(cfg: DictConfig) -> dict[str, Any]:
    """Return the options of `rank` with the values that the method's own options have in their place."""
    return {**cfg.rank, **{option: OmegaConf.select(cfg.method, path) for option, path in _paths(cfg).items()}}


def _pruned(
    raw: dict[str, Any], resolved: dict[str, Any], keep: Callable[[str, str], bool], inside: str = ""
) -> dict[str, Any]:
    """Return `resolved` with the entries that are sections or for whose dotted key and raw text `keep` holds."""
    return {
        key: _pruned(raw[key], value, keep, f"{inside}{key}.") if isinstance(raw[key], dict) else value
        for key, value in resolved.items()
        if isinstance(raw[key], dict) or keep(f"{inside}{key}", raw[key] if isinstance(raw[key], str) else "")
    }
