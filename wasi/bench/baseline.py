"""What a configuration is compared with: the same model, data, device and seed under another method, plain."""

import json

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from wasi.errors import UserError
from wasi.runs.record import resolved
from wasi.runs.result import strict

_PLAIN = {
    "memory": "plain",
    "chunk_size": None,
    "segment_size": None,
    "storage": None,
    "gradient_checkpointing": False,
    "micro_batch_size": None,
}
_NOT_MEASURED = ("bench", "sweep", "logger")


def baseline_config(cfg: DictConfig) -> DictConfig | None:
    """`cfg` with the method of `bench.baseline` as its YAML has it (but for the scope) and a plain step.

    Raises:
        UserError: there is no such method.
    """
    name = cfg.bench.baseline
    if name is None:
        return None
    check_baseline(name)
    method = compose(HydraConfig.get().job.config_name, overrides=[f"method={name}"]).method
    other = cfg.copy()
    with open_dict(other):
        other.method = OmegaConf.create({**OmegaConf.to_container(method), "scope": cfg.method.scope})
        other.train.update(_PLAIN)
    return other


def check_baseline(name: str | None) -> None:
    """Raises UserError when `bench.baseline` names no method."""
    methods = GlobalHydra.instance().hydra.config_loader.get_group_options("method")
    if name is not None and name not in methods:
        raise UserError("bench.baseline", name, f"{', '.join(methods)} or null")


def measured_config(cfg: DictConfig) -> dict:
    """The configuration as a measuring process and bench.json get it: no interpolations."""
    return strict(resolved(cfg))


def identity(config: dict) -> str:
    """Equal for two configurations whose measuring processes would do the same."""
    return json.dumps({key: value for key, value in config.items() if key not in _NOT_MEASURED}, sort_keys=True)
