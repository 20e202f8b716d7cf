"""Folder and identity of a benchmark job: those of the run it measures, and how it is measured. No torch.

Registers `${bench_folder:}` for conf/bench.yaml when imported.
"""

import hashlib
import json

from omegaconf import DictConfig, OmegaConf

from wasi.config.declared import reads_rank
from wasi.config.files import plain
from wasi.config.fingerprint import canonical, fingerprint
from wasi.config.naming import job_folder


def bench_fingerprint(cfg: DictConfig) -> str:
    """Equal for two jobs exactly when they measure the same in the same way, on whatever machine."""
    return _digest({"run": fingerprint(cfg), **_how(cfg)})


def bench_folder(cfg: DictConfig) -> str:
    """For example `wasi-vit_micro-digits-eps_0.8-s0-1f3a09c2d4-5e1b77`. Never raises."""
    return f"{job_folder(cfg)}-{_digest(_how(cfg))[:6]}"


def _how(cfg: DictConfig) -> dict:
    """`bench` without its bookkeeping; the ranks too where the baseline may read them."""
    try:
        bench = plain(cfg.bench, resolve=True)
        bench.pop("rerun", None)
        if not bench.get("data"):
            bench.pop("data", None)  # jobs measured before this option existed keep their names
        own_ranks = bench.get("baseline_recipe") is not None or not reads_rank(str(bench.get("baseline")))
        rank = None if own_ranks else plain(cfg.rank, resolve=True)
    except Exception:
        return {}
    return {"bench": bench, "rank": rank}


def _digest(ingredients: dict) -> str:
    return hashlib.sha256(json.dumps(canonical(ingredients), sort_keys=True).encode()).hexdigest()


def register() -> None:
    """Make `${bench_folder:}` known to OmegaConf; again is harmless."""
    OmegaConf.register_new_resolver("bench_folder", lambda *, _root_: bench_folder(_root_), replace=True)


register()
