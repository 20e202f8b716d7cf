"""Result files as runs leave them, with made-up numbers."""

import copy
import hashlib
import json
import random
from pathlib import Path

from omegaconf import OmegaConf

from wasi.config.declared import method_names, reads_rank

CONF = Path(__file__).resolve().parents[2] / "conf"
CONFIG = {
    "seed": 0,
    "sweep": "fake",
    "train": {
        "epochs": 8,
        "micro_batch_size": None,
        "gradient_checkpointing": False,
        "memory": "plain",
        "clip_norm": 2.0,
        "checkpoint_every": None,
        "rerun": False,
        "measure": True,
        "monitor": False,
    },
    "model": {"name": "vit_micro", "library": "wasi", "weights": "pretrained"},
    "dataset": {
        "name": "digits",
        "root": "data",
        "download": False,
        "train_size": None,
        "val_size": None,
        "image_size": None,
        "batch_size": 64,
        "hflip": 0.0,
        "num_workers": 0,
    },
    "rank": {"weight_epsilon": 0.8, "activation_epsilon": 0.8, "keep_ratio": None, "calibration_batches": 1},
    "device": {"name": "cpu", "num_threads": None, "dtype": "float32", "memory_limit_mib": None},
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.0, "weight_decay": 1e-4},
    "scheduler": {"_target_": "wasi.training.schedule.cosine", "warmup_epochs": 0, "min_lr_ratio": 0.0},
    "logger": {"name": "none"},
}
PROVENANCE = {
    "git_commit": "0123456789abcdef",
    "git_dirty": False,
    "versions": {"python": "3.11.9", "torch": "2.8.0"},
    "machine": {"processor": "Cortex-A76", "architecture": "aarch64", "hostname": "pi"},
    "threads": {"torch": 4},
    "start": "2026-01-01T10:00:00+00:00",
    "wall_seconds": 12.5,
}


def method(name: str, epsilon: float | None = None, seed: int = 0, **options) -> dict:
    """The resolved `method` section, as conf/method/*.yaml compose it."""
    thresholds = {"weight_epsilon": epsilon, "activation_epsilon": epsilon}
    rank = OmegaConf.merge(OmegaConf.load(CONF / "rank" / "full.yaml"), CONFIG["rank"] | thresholds)
    node = OmegaConf.load(CONF / "method" / f"{name}.yaml")
    cfg = OmegaConf.create({"seed": seed, "rank": rank, "method": node})
    return OmegaConf.to_container(cfg.method, resolve=True) | options


def has_threshold(name: str) -> bool:
    """Whether the method is another one at another threshold."""
    return method(name, 0.4) != method(name, 0.8)


WITH_THRESHOLD = tuple(filter(has_threshold, method_names()))


def metrics(acc: float, cost: float = 1.0, **others) -> dict:
    """All costs in proportion: `cost` = 1 is 400 MiB, 100 ms, 2 GFLOP, 10 ms, 0.5 M parameters."""
    found = {
        "val/acc": acc,
        "val/loss": 1 - acc,
        "memory/train_peak_mib": 400 * cost,
        "memory/train_rss_peak_mib": 450 * cost,
        "memory/process_rss_peak_mib": 900 * cost,
        "memory/stored_inputs_mib": 200 * cost,
        "memory/paper_train_mib": 300 * cost,
        "time/train_step_ms_p50": 100 * cost,
        "time/inference_ms_p50": 10 * cost,
        "flops/train_step": 2e9 * cost,
        "model/parameters": int(500_000 * cost),
    }
    return {k: v for k, v in (found | others).items() if v is not None}


def config(name: str = "vanilla", epsilon: float | None = None, seed: int = 0, options: dict | None = None) -> dict:
    """Args: options: dotted key -> value, put over everything else."""
    found = copy.deepcopy(CONFIG) | {"seed": seed, "method": method(name, epsilon, seed)}
    found["rank"]["weight_epsilon"] = found["rank"]["activation_epsilon"] = epsilon or 0.8
    for key, value in (options or {}).items():
        *parts, last = key.split(".")
        node = found
        for part in parts:
            node = node[part]
        node[last] = value
    return found


def write(folder: Path, numbers: dict, config: dict, **fields) -> Path:
    """One result.json in a folder of its own below `folder`; `fields` overwrite the file's."""
    counted = {k: v for k, v in config.items() if k not in ("sweep", "logger", "rank")}
    if reads_rank(config.get("method", {}).get("name", "")):
        counted["calibration_batches"] = config.get("rank", {}).get("calibration_batches")
    identity = json.dumps(counted, sort_keys=True).encode()
    content = {
        "schema_version": 1,
        "status": "completed",
        "error": None,
        "fingerprint": hashlib.sha256(identity).hexdigest(),
        "config": config,
        "provenance": copy.deepcopy(PROVENANCE),
        "metrics": numbers,
        "layers": [],
    } | fields
    job = folder / f"job{len(list(folder.glob('job*')))}"
    job.mkdir(parents=True)
    (job / "result.json").write_text(json.dumps(content))
    return job / "result.json"


def sweep(folder: Path, seeds=(0, 1, 2), epsilons=(0.4, 0.6, 0.8, 0.9), names=("svd_llm", "wasi"), **common) -> None:
    """A whole sweep with plausible numbers: dearer and more accurate with growing epsilon."""
    draw = random.Random(0)

    def one(name: str, epsilon: float | None, seed: int) -> None:
        share = {None: 1.0, 0.4: 0.16, 0.5: 0.2, 0.6: 0.27, 0.7: 0.36, 0.8: 0.52, 0.9: 0.81}[epsilon]
        later = method_names().index(name) / len(method_names())  # the reference is the first
        acc = 0.975 - 0.04 * later * (1 + 3 * (1 - share)) + draw.gauss(0, 0.003)
        scale = share if "activations" in method(name, epsilon) else 1 - 0.2 * (1 - share) - 0.3 * later
        numbers = metrics(acc, scale)
        numbers["time/train_step_ms_p50"] *= draw.gauss(1.1, 0.02)
        write(folder, numbers, config(name, epsilon, seed, common))

    for seed in seeds:
        one("vanilla", None, seed)
        for name in names:
            for epsilon in epsilons if has_threshold(name) else [None]:
                one(name, epsilon, seed)
