"""Applies the options of `device` to this process. Imports torch: for use inside a job."""

import logging
import os
from functools import cache

import torch
from omegaconf import DictConfig

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

    `auto` is CUDA where there is a GPU. Under `torchrun`, `auto` and `cuda` mean the process's own GPU (LOCAL_RANK).

    Raises:
        UserError: torch has no such CUDA device.
    """
    if name not in ("auto", "cuda") and not name.startswith("cuda:"):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto" and not count:
        return torch.device("cpu")
    if not count:
        raise UserError("device", name, "auto or cpu, as torch sees no CUDA device here")
    own = os.environ.get("LOCAL_RANK")
    device = torch.device(name if ":" in name else "cuda" if own is None else f"cuda:{own}")
    if device.index is None:  # the current device; `set_device` would need an index
        return device
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
