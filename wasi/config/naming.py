"""Names of folders and rows that are derived from a configuration, and values as they are written.

Jobs with equal configurations share one folder, and runs that differ by seed alone share one row.
"""

import re
from pathlib import PurePath
from typing import Any

from omegaconf import DictConfig, OmegaConf

from wasi.config.fingerprint import canonical, fingerprint
from wasi.config.rank_options import rank_options_read
from wasi.errors import as_written
from wasi.paths import without_absolute_paths


def job_folder(cfg: DictConfig) -> str:
    """Return the name of a job's folder, for example `wasi-vit_micro-digits-eps_0.8-s0-1f3a09c2d4`.

    It never raises: a configuration that is not allowed is refused by the job.
    """
    seed = f"s{_select(cfg, 'seed')}"
    readable = _readable(*_names(cfg, "method.name", "model.name", "dataset.name"), rank_label(cfg), seed)
    return f"{readable.lstrip('.')}-{fingerprint(cfg)[:10]}"


def row_label(cfg: DictConfig) -> str:
    """Return a name that is equal for runs that differ by seed alone, such as `wasi-eps_0.8-vit_micro-digits-1f3a09`.

    With a recipe it begins with the recipe's name: `lora_r8-dinov2_vits14-fashion_mnist-5e1b77`. The hash covers all
    that can change a result. A benchmark's label ends in `-bench`, so that it is not grouped with training runs. It
    never raises.
    """
    recipe = _select(cfg, "recipe")
    how = [recipe] if recipe else [*_names(cfg, "method.name"), rank_label(cfg)]
    of_one_seed = cfg.copy()
    of_one_seed.seed = 0
    # A training run may have a part of `bench`, set by its experiment; `bench.rerun` is in benchmarks alone.
    kind = "bench" if _select(cfg, "bench.rerun") is not None else None
    return _readable(*how, *_names(cfg, "model.name", "dataset.name"), fingerprint(of_one_seed)[:6], kind)


def rank_label(cfg: DictConfig) -> str:
    """Return a label of the rank options that the method reads: `eps_0.8`, `eps_0.8_a0.4_t1`, `keep_0.5`.

    It is empty if the method reads none. `a` stands for the activations' threshold, `t` for the token modes',
    `eps_0.8_r16x10x40` has fixed ranks. After a perplexity search the label states its bound: `eps_0.8_search_a0.8`
    (that of this uniform threshold), `search_0.5MiB`, `search_p3`.
    """
    try:
        read = rank_options_read(cfg)
        rank = {key: canonical(_select(cfg, f"rank.{key}")) for key in read}
    except Exception:
        return ""
    weight, activation, ranks = (rank.get(k) for k in ("weight_epsilon", "activation_epsilon", "activation_ranks"))
    label = f"eps_{weight}" if weight is not None else ""
    if rank.get("keep_ratio") is not None:
        label = f"keep_{rank['keep_ratio']}"
    if "perplexity_table" in read:
        return "_".join(filter(None, [label, _search_label(rank)]))
    if ranks is not None:
        return f"{label}_r{'x'.join(map(str, ranks))}" if isinstance(ranks, list) else label
    if activation is not None and activation != weight:
        label = f"{label}_a{activation}" if label else f"eps_{activation}"
    tokens = rank.get("token_epsilon")
    return label if tokens in (None, activation) else f"{label}_t{tokens}"


def show(value: Any) -> str:
    """Return a value as it is written on the command line, except for lists of ranks and for paths.

    >>> [show(v) for v in (None, True, 0.05, 1.0, [16, 10, 40], "a/b/c.safetensors")]
    ['null', 'true', '0.05', '1', '16x10x40', 'c.safetensors']
    """
    value = canonical(value)
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        return "x".join(map(str, value))
    if isinstance(value, str) and value.endswith(".safetensors"):
        return PurePath(value).name
    return as_written(without_absolute_paths(value))


def _names(cfg: DictConfig, *keys: str) -> list:
    return [_select(cfg, key) for key in keys]


def _readable(*names) -> str:
    """Join the non-empty names by dashes, each cut to 40 characters that are safe in the name of a folder."""
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", str(name))[:40] for name in names if name)


def _search_label(rank: dict) -> str:
    """Return what bounds the search; `search` where a method's own option stands in place of one of `rank`."""
    if rank.get("memory_budget_mib") is not None:
        return f"search_{rank['memory_budget_mib']}MiB"
    if rank.get("perplexity_ceiling") is not None:
        return f"search_p{rank['perplexity_ceiling']}"
    return f"search_a{rank['activation_epsilon']}" if rank.get("activation_epsilon") is not None else "search"


def _select(cfg: DictConfig, key: str):
    try:
        value = OmegaConf.select(cfg, key)
    except Exception:
        return None
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
