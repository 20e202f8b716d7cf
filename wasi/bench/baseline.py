"""The baseline of a benchmark: the same model, data, device and seed with another method or recipe."""

import json

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from wasi.config.files import plain
from wasi.config.relevance import relevant
from wasi.errors import UserError
from wasi.runs.record import resolved
from wasi.runs.result import strict

_PLAIN = {
    "memory": "plain",
    "chunk_size": None,
    "chunk_mib": None,
    "segment_size": None,
    "storage": None,
    "gradient_checkpointing": False,
    "micro_batch_size": None,
}
# Options of `train` that change what a single step does.
_OF_A_STEP = (*_PLAIN, "clip_norm", "step_in_backward")


def baseline_config(cfg: DictConfig) -> DictConfig | None:
    """Return the baseline's configuration, or None with `bench.baseline=null`.

    It is `cfg` with the method `bench.baseline` at its defaults, and without the options of `train` that save memory.
    With `bench.baseline_recipe`, it has that recipe's method, ranks, optimizer, clipping and memory policy instead.
    Either way `method.scope` is that of `cfg`.

    Raises:
        UserError: there is no such method or recipe.
    """
    check_baseline(cfg.bench)
    if cfg.bench.baseline is None:
        return None
    recipe = cfg.bench.get("baseline_recipe")
    choice = f"method={cfg.bench.baseline}" if recipe is None else f"recipe={recipe}"
    chosen = compose(HydraConfig.get().job.config_name, overrides=[choice])
    other = cfg.copy()
    with open_dict(other):
        other.recipe = recipe  # None, or the baseline's own
        other.method = OmegaConf.create({**plain(chosen.method), "scope": cfg.method.scope})
        if recipe is None:
            other.train.update(_PLAIN)
        else:
            other.rank, other.optimizer = chosen.rank, chosen.optimizer
            other.train.update({key: chosen.train[key] for key in _OF_A_STEP if key in chosen.train})
    return other


def check_baseline(bench: DictConfig) -> None:
    """Raise a UserError if `bench.baseline` names no method or `bench.baseline_recipe` names no recipe."""
    for option, group in (("baseline", "method"), ("baseline_recipe", "recipe")):
        name = bench.get(option)
        choices = GlobalHydra.instance().config_loader().get_group_options(group)
        if name is not None and name not in choices:
            raise UserError(f"bench.{option}", name, f"{', '.join(choices)} or null")


def measured_config(cfg: DictConfig) -> dict:
    """Return `cfg` for a measuring process and bench.json: a dictionary for JSON, with interpolations resolved."""
    return strict(resolved(cfg))


def identity(config: dict) -> str:
    """Return a JSON string that is equal for two configurations whose measurements would be the same.

    It has no section `rank`, whose options are resolved in the method's section, no scheduler, and of `train` only the
    options that change what a step does.
    """
    parts = relevant(config)
    parts.pop("scheduler", None)
    if "train" in parts:
        parts["train"] = {key: value for key, value in parts["train"].items() if key in _OF_A_STEP}
    root = config.get("dataset", {}).get("root")
    return json.dumps({"seed": config.get("seed"), "root": root, **parts}, sort_keys=True)
