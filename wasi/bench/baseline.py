"""The baseline of a benchmark: the same model, data, device and seed with another method or recipe."""

import json

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from wasi.config.files import flat, plain
from wasi.config.relevance import MEMORY_POLICY, is_of_a_step, relevant
from wasi.errors import UserError
from wasi.runs.record import resolved
from wasi.runs.result import strict


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
            policy = MEMORY_POLICY
        else:
            other.rank, other.optimizer = chosen.rank, chosen.optimizer
            policy = {key: OmegaConf.select(chosen, key) for key in (*MEMORY_POLICY, "train.clip_norm")}
        other.train.update({key.removeprefix("train."): value for key, value in policy.items()})
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

    It has the options of a step, of the device that it runs on, and of the data, which resident memory includes.
    There is no section `rank`, whose options are resolved in the method's section.
    """
    options = flat(relevant(config)).items()
    kept = {key: value for key, value in options if key.startswith(("device.", "dataset.")) or is_of_a_step(key)}
    root = config.get("dataset", {}).get("root")
    return json.dumps({"seed": config.get("seed"), "root": root, **kept}, sort_keys=True)
