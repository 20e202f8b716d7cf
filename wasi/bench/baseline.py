"""What a configuration is compared with: the same model, data, device and seed, plain or under a recipe."""

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
_OF_A_STEP = (*_PLAIN, "clip_norm", "step_in_backward")


def baseline_config(cfg: DictConfig) -> DictConfig | None:
    """`cfg` with the method of `bench.baseline` as its YAML has it (but for the scope) and a plain step.

    With `bench.baseline_recipe`, method, ranks, optimizer, clipping and memory policy are that recipe's.

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
        other.recipe = recipe  # not that of the row it is measured beside
        other.method = OmegaConf.create({**plain(chosen.method), "scope": cfg.method.scope})
        if recipe is None:
            other.train.update(_PLAIN)
        else:
            other.rank, other.optimizer = chosen.rank, chosen.optimizer
            other.train.update({key: chosen.train[key] for key in _OF_A_STEP if key in chosen.train})
    return other


def check_baseline(bench: DictConfig) -> None:
    """Raises UserError when `bench.baseline` names no method, or `bench.baseline_recipe` no recipe."""
    for option, group in (("baseline", "method"), ("baseline_recipe", "recipe")):
        name = bench.get(option)
        choices = GlobalHydra.instance().config_loader().get_group_options(group)
        if name is not None and name not in choices:
            raise UserError(f"bench.{option}", name, f"{', '.join(choices)} or null")


def measured_config(cfg: DictConfig) -> dict:
    """The configuration as a measuring process and bench.json get it: no interpolations."""
    return strict(resolved(cfg))


def identity(config: dict) -> str:
    """Equal for two configurations whose measuring processes would do the same.

    Of `rank` that is what stands in the method's own section, of `train` what shapes a step.
    """
    parts = relevant(config)
    parts.pop("scheduler", None)
    if "train" in parts:
        parts["train"] = {key: value for key, value in parts["train"].items() if key in _OF_A_STEP}
    root = config.get("dataset", {}).get("root")
    return json.dumps({"seed": config.get("seed"), "root": root, **parts}, sort_keys=True)
