"""Where a result comes from: code, versions, machine, time. No heavy import."""

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from wasi import allocator
from wasi.config.hardware import gpu_driver, launched

_PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "hydra": "hydra-core",
    "omegaconf": "omegaconf",
    "wandb": "wandb",
    "fvcore": "fvcore",
    "numpy": "numpy",
}


def provenance() -> dict:
    """What is known when a run starts; `threads` and `wall_seconds` join when it ends.

    `git_commit` and `git_dirty` are absent where the code is not a git checkout, `experiment` where none was named.
    """
    return {
        **code_version(),
        **_experiment(),
        "versions": versions(),
        "machine": machine(),
        "allocator": allocator.provenance(),
        "start": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


# Folders of what runs write: whoever empties one has changed no code.
_NO_CODE = [f":(exclude){folder}" for folder in ("multirun", "outputs", "results")]


@cache
def code_version() -> dict:
    """The commit of the checkout that holds this package, and whether tracked files differ from it, results apart.

    Looked up once in a process, which runs what it has loaded: later jobs of a sweep know nothing of later commits.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {}
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *_NO_CODE)
    return {"git_commit": commit, "git_dirty": bool(changed)}


@cache
def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "wasi": _wasi_version()}
    for name, package in _PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def machine() -> dict:
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {
        "platform": platform.platform(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "cpu_usable": len(cpus),
        "hostname": platform.node(),
    }


def _experiment() -> dict[str, str]:
    """The name behind `experiment=NAME` on the command line."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    name = choices.get("experiment")
    return {"experiment": str(name)} if name not in (None, "null") else {}


def threads() -> dict:
    """Threads that torch uses in this process (absent before its import), and what the environment asked for."""
    torch = sys.modules.get("torch")
    found = {"torch": torch.get_num_threads()} if torch is not None else {}
    if "OMP_NUM_THREADS" in os.environ:
        found["OMP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]
    return found


def gpu(device: str | None) -> dict:
    """The GPU that a run on `device` (cpu, cuda) had: its name, its driver, and the CUDA that torch is built with.

    Nothing for other devices, and where torch opened none.
    """
    torch = sys.modules.get("torch")
    if device != "cuda" or torch is None or not torch.cuda.is_initialized():
        return {}
    found = {"cuda": torch.cuda.get_device_name(), "cuda_driver": gpu_driver(), "cuda_version": torch.version.cuda}
    return {key: value for key, value in found.items() if value is not None}


def processes() -> dict:
    """How many processes trained together, where there were several."""
    return {"processes": launched().world_size} if launched().world_size > 1 else {}


def _processor() -> str:
    """The CPU's name; a Raspberry Pi tells its board instead."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    named = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in info.splitlines())}
    return named.get("model name") or named.get("Model") or platform.processor() or platform.machine()


def _wasi_version() -> str:
    """From pyproject.toml: the project runs from its checkout and need not be installed."""
    for line in (_root() / "pyproject.toml").read_text().splitlines():
        if line.startswith("version"):
            return line.split('"')[1]
    return "unknown"


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(_root()), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
