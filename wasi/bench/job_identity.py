"""Folder name and fingerprint of a benchmark job, made of those of the run it measures and of the options `bench.*`.

Registers the resolver `${bench_folder:}` for conf/bench.yaml when imported. Imports no torch.
"""

import hashlib
import json

from omegaconf import DictConfig, OmegaConf

from wasi.config.declared import reads_rank
from wasi.config.files import plain
from wasi.config.fingerprint import canonical, fingerprint
from wasi.config.naming import job_folder


def bench_fingerprint(cfg: DictConfig) -> str:
    """Return a digest that is equal for two jobs exactly when they measure the same run in the same way.

    It does not depend on the machine.
    """
    return _digest({"run": fingerprint(cfg), **_how(cfg)})


def bench_folder(cfg: DictConfig) -> str:
    """Return the name of a job's folder, for example `wasi-vit_micro-digits-eps_0.8-s0-1f3a09c2d4-5e1b77`.

    Never raises.
    """
    return f"{job_folder(cfg)}-{_digest(_how(cfg))[:6]}"


def _how(cfg: DictConfig) -> dict:
    """Return the options `bench.*` that affect a measurement, and `rank.*` where the baseline reads them."""
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
    """Register the resolver `${bench_folder:}` with OmegaConf; may be called more than once."""
    OmegaConf.register_new_resolver("bench_folder", lambda *, _root_: bench_folder(_root_), replace=True)


register()
