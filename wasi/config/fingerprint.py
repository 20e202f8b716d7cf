"""The identity of a run: a hash over everything that can change its result, and over nothing else."""

import hashlib
import json
import math
from typing import Any

from omegaconf import DictConfig, OmegaConf

from wasi.config.files import plain
from wasi.config.rank_options import method_as_read, rank_options_read
from wasi.config.relevance import SECTIONS, in_one_form, relevant
from wasi.data.catalogue import dataset_identity
from wasi.models.identity import weights_identity
from wasi.paths import expanded

SCHEMA_VERSION = 1


def fingerprint(cfg: DictConfig) -> str:
    """Return 64 hex digits (SHA-256) that are equal for two configurations exactly when they ask for the same run.

    It never raises: a configuration that cannot be resolved is hashed unresolved, so that the job that fails because of
    it has a folder.
    """
    try:
        return _digest(_ingredients(cfg))
    except Exception:
        kept = [str(key) for key in cfg if key not in ("hydra", "sweep", "recipe", "logger")]
        return _digest(plain(OmegaConf.masked_copy(cfg, kept)))


def canonical(value: Any) -> Any:
    """Return one form per value: 1.0 as 1, what JSON cannot hold as text, dictionaries without keys that are null.

    Leaving null out means that a new option whose default is null, or counts as null, does not change older
    fingerprints.

    >>> canonical({"a": (1.0, 0.80), "b": True, "c": float("nan"), "d": None})
    {'a': [1, 0.8], 'b': True, 'c': 'nan'}
    """
    if isinstance(value, dict):
        return {str(k): canonical(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [canonical(v) for v in value]
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def _ingredients(cfg: DictConfig) -> dict:
    resolved = {name: plain(cfg[name], resolve=True) for name in SECTIONS}
    parts = relevant(resolved)
    given = {key for key, value in parts["method"].items() if value is not None}
    as_read = in_one_form(method_as_read(cfg))
    parts["method"] = {key: value for key, value in as_read.items() if key in given}
    parts["model"].pop("weights")  # `identity` has a checksum of them instead of their path
    data = {**resolved["dataset"], **parts.pop("dataset")}  # likewise, including which of the images are used
    identity = {"weights": weights_identity(cfg.model), "data": dataset_identity(data)}
    if "perplexity_table" in rank_options_read(cfg) and cfg.rank.perplexity_table is not None:
        identity["perplexity_table"] = _file_digest(cfg.rank.perplexity_table)
        parts["method"]["activations"]["perplexity"].pop("table")
    return {"schema_version": SCHEMA_VERSION, "seed": cfg.seed, "identity": identity, **parts}


def _digest(ingredients: Any) -> str:
    text = json.dumps(canonical(ingredients), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _file_digest(path: str) -> str:
    file = expanded(path)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "absent"
