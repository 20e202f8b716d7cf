"""The identity of a run: a hash over everything that can change its result, and over nothing else."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from wasi.config.reads import method_as_read, rank_options_read
from wasi.data.catalogue import dataset_identity
from wasi.models.identity import weights_identity

SCHEMA_VERSION = 1

# Where the bytes lie and how they are fetched does not matter: the identities stand for them.
_PLACES = {"model": ("weights",)}
_BOOKKEEPING = ("checkpoint_every", "eval_every", "rerun", "save")


def fingerprint(cfg: DictConfig) -> str:
    """64 hex digits; equal for two configurations exactly when they ask for the same run.

    Never raises: a configuration with holes in it gets one from its unresolved form, so that its failure has a
    folder.
    """
    try:
        return _digest(_ingredients(cfg))
    except Exception:
        return _digest(OmegaConf.to_container(_without(cfg, "hydra", "sweep", "recipe", "logger"), resolve=False))


def canonical(value: Any) -> Any:
    """One spelling per value: keys sorted by JSON, 1.0 as 1, what JSON cannot hold as text.

    >>> canonical({"a": (1.0, 0.80), "b": True, "c": float("nan")})
    {'a': [1, 0.8], 'b': True, 'c': 'nan'}
    """
    if isinstance(value, dict):
        return {str(k): canonical(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(v) for v in value]
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def _ingredients(cfg: DictConfig) -> dict:
    sections = ("model", "method", "optimizer", "scheduler", "train", "device")
    parts = {name: OmegaConf.to_container(cfg[name], resolve=True, throw_on_missing=True) for name in sections}
    for name, keys in {**_PLACES, "train": _BOOKKEEPING}.items():
        parts[name] = {k: v for k, v in parts[name].items() if k not in keys}
    if cfg.train.select == "best":
        parts["train"]["eval_every"] = cfg.train.eval_every  # which epochs there are to select from
    parts["method"] = method_as_read(cfg)
    if cfg.train.monitor:  # it holds every method against both thresholds
        parts["monitored"] = [cfg.rank.weight_epsilon, cfg.rank.activation_epsilon]
    identity = {"weights": weights_identity(cfg.model), "data": dataset_identity(cfg.dataset)}
    if "perplexity_table" in rank_options_read(cfg) and cfg.rank.perplexity_table is not None:
        identity["perplexity_table"] = _file_digest(cfg.rank.perplexity_table)
        parts["method"]["activations"]["perplexity"].pop("table")
    return {"schema_version": SCHEMA_VERSION, "seed": cfg.seed, "identity": identity, **parts}


def _digest(ingredients: Any) -> str:
    text = json.dumps(canonical(ingredients), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _file_digest(path: str) -> str:
    file = Path(path).expanduser()
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "absent"


def _without(cfg: DictConfig, *keys: str) -> DictConfig:
    return OmegaConf.masked_copy(cfg, [k for k in cfg if k not in keys])
