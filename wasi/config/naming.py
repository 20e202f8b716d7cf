"""Folder names made from content, so that equal configurations meet in one folder."""

import re

from omegaconf import DictConfig, OmegaConf

from wasi.config.fingerprint import canonical, fingerprint
from wasi.config.reads import rank_options_read


def job_folder(cfg: DictConfig) -> str:
    """For example `wasi-vit_micro-digits-eps_0.8-s0-1f3a09c2d4`. Never raises: refusing is up to the job."""
    names = [_select(cfg, key) for key in ("method.name", "model.name", "dataset.name")]
    names += [rank_label(cfg), f"s{_select(cfg, 'seed')}"]
    readable = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", str(name))[:40] for name in names if name)
    return f"{readable.lstrip('.')}-{fingerprint(cfg)[:10]}"


def rank_label(cfg: DictConfig) -> str:
    """The ranks as far as the method reads them: `eps_0.8`, `eps_0.8_a0.4_t1`, `eps_0.8_r16x10x40`, `keep_0.5`.

    After a search, its bound: `eps_0.8_search_a0.8` (of that uniform threshold), `search_0.5MiB`, `search_p3`.
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
    return label if rank.get("token_epsilon") is None else f"{label}_t{rank['token_epsilon']}"


def _search_label(rank: dict) -> str:
    if rank["memory_budget_mib"] is not None:
        return f"search_{rank['memory_budget_mib']}MiB"
    if rank["perplexity_ceiling"] is not None:
        return f"search_p{rank['perplexity_ceiling']}"
    return f"search_a{rank['activation_epsilon']}"


def _select(cfg: DictConfig, key: str):
    try:
        value = OmegaConf.select(cfg, key)
    except Exception:
        return None
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
