"""Applies the options of `device` to this process. Imports torch: for use inside a job."""

import logging
import os
from functools import cache

import torch
from omegaconf import DictConfig

from wasi.config.hardware import processes_here
from wasi.errors import UserError

log = logging.getLogger(__name__)


def prepare_device(cfg: DictConfig) -> torch.device:
    """Set threads, handling of denormals and precision as `device` says, and return the device for tensors.

    Raises:
        UserError: torch has no such CUDA device, or `tf32` is set on a CPU.
    """
    device = torch_device(cfg.name)
    set_threads(cfg.num_threads)
    _set_tf32(device, cfg.tf32)
    if not torch.set_flush_denormal(bool(cfg.flush_denormals)) and cfg.flush_denormals:
        log.warning("device.flush_denormals=true has no effect on this processor")
    return device


def torch_device(name: str) -> torch.device:
    """Return the device for a value of `device.name`; a Raspberry Pi (`pi5`, `pi4`) is a CPU.

    `auto` is CUDA where there is a GPU. `auto` and `cuda` mean the first GPU that torch sees, or, under `torchrun`, the
    process's own (LOCAL_RANK). A GPU becomes CUDA's current device.

    Raises:
        UserError: torch has no such CUDA device, or fewer of them than `torchrun` started processes on this machine.
    """
    if name not in ("auto", "cuda") and not name.startswith("cuda:"):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto" and not count:
        return torch.device("cpu")
    if not count:
        raise UserError("device", name, "auto or cpu, as torch sees no CUDA device here")
    # One GPU named there is this process's own: `torchrun --virtual-local-rank`, which makes every LOCAL_RANK 0, and
    # Slurm show every process another.
    is_numbered = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("LOCAL_RANK", "0") != "0"
    alone = count == 1 and "CUDA_VISIBLE_DEVICES" in os.environ and not is_numbered
    if processes_here() > count and not alone:
        allowed = f"cuda with at most {count} processes on this machine, one for each GPU that torch sees"
        raise UserError("device", name, allowed, f"torchrun started {processes_here()} processes")
    own = "0" if alone else os.environ.get("LOCAL_RANK", "0")
    device = torch.device(name if ":" in name else f"cuda:{own}")
    if device.index >= count:
        raise UserError("device", device, f"cuda:0 to cuda:{count - 1}, the devices that torch sees here")
    torch.cuda.set_device(device)
    return device


def _set_tf32(device: torch.device, wanted: bool) -> None:
    """Set whether a GPU rounds the factors of float32 products to TF32, which has 10 bits of mantissa."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = wanted
    elif wanted:
        raise UserError("device.tf32", "true", "false on a CPU: TF32 is a format of NVIDIA's GPUs")


def set_threads(count: int | None) -> None:
    """Use `count` threads here and in child processes; None restores what the process started with."""
    threads, variable = _at_start()
    torch.set_num_threads(count or threads)
    if count:
        os.environ["OMP_NUM_THREADS"] = str(count)
    elif variable is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    else:
        os.environ["OMP_NUM_THREADS"] = variable


@cache
def _at_start() -> tuple[int, str | None]:
    return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
