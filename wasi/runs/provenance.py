"""Where a result comes from: code, versions, machine, time. Imports nothing heavy."""

import os
import platform
import subprocess
import sys
from contextlib import suppress
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

import wasi
from wasi import allocator
from wasi.config.hardware import gpu_driver, launched
from wasi.cores import usable_cores

_PACKAGES = ("torch", "torchvision", "timm", "hydra-core", "omegaconf", "wandb", "fvcore", "numpy")


def provenance() -> dict:
    """Return what is known when a run starts; `Record.end` adds `threads`, `wall_seconds` and more when it ends.

    `git_commit` and `git_dirty` are absent if the code is not a git checkout, `experiment` if none was named.
    """
    return {
        **code_version(),
        **_experiment(),
        "versions": versions(),
        "machine": machine(),
        "allocator": allocator.provenance(),
        "start": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


# Folders that runs write into: changes there are not changes of code.
_NO_CODE = [f":(exclude){folder}" for folder in ("multirun", "outputs", "results")]


@cache
def code_version() -> dict:
    """Return the commit of this package's checkout, and whether tracked files differ from it, results apart.

    Looked up once per process, as the process keeps running the code that it has loaded when a later commit is made.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {}
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *_NO_CODE)
    return {"git_commit": commit, "git_dirty": bool(changed)}


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python, of this project, and of those `_PACKAGES` that are installed."""
    found = {"python": platform.python_version(), "wasi": wasi.__version__}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package.removesuffix("-core")] = version(package)
    return found


@cache
def machine() -> dict:
    """Return the machine's platform, processor, number of cores (all, and usable by this process) and host name."""
    return {
        "platform": platform.platform(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "cpu_usable": usable_cores(),
        "hostname": platform.node(),
    }


def _experiment() -> dict[str, str]:
    """Return the name behind `experiment=NAME` on the command line; empty without one."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    name = choices.get("experiment")
    return {"experiment": str(name)} if name not in (None, "null") else {}


def threads() -> dict:
    """Return torch's number of threads in this process (absent before its import), and OMP_NUM_THREADS if set."""
    torch = sys.modules.get("torch")
    found = {"torch": torch.get_num_threads()} if torch is not None else {}
    if "OMP_NUM_THREADS" in os.environ:
        found["OMP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]
    return found


def gpu(device: str | None) -> dict:
    """Return the GPU that a run on `device` (`cpu` or `cuda`) had: its name, its driver, and torch's version of CUDA.

    Empty for other devices, and if torch has not initialised CUDA.
    """
    torch = sys.modules.get("torch")
    if device != "cuda" or torch is None or not torch.cuda.is_initialized():
        return {}
    found = {"cuda": torch.cuda.get_device_name(), "cuda_driver": gpu_driver(), "cuda_version": torch.version.cuda}
    return {key: value for key, value in found.items() if value is not None}


def processes() -> dict:
    """Return how many processes trained together; empty if there was one."""
    return {"processes": launched().world_size} if launched().world_size > 1 else {}


def _processor() -> str:
    """Return the CPU's name; on a Raspberry Pi, where /proc/cpuinfo lacks it, the board's."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    named = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in info.splitlines())}
    return named.get("model name") or named.get("Model") or platform.processor() or platform.machine()


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


def _git(*arguments: str) -> str | None:
    # `git status` would lock the index to refresh it: a commit made meanwhile fails, and a kill leaves the lock behind.
    command = ["git", "--no-optional-locks", "-C", str(_root()), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
