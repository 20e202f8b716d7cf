"""`device=` put into effect in this process. Imports torch: for use inside a job."""

import logging
import os
from functools import cache

import torch
from omegaconf import DictConfig

from wasi.errors import UserError

log = logging.getLogger(__name__)


def prepare_device(cfg: DictConfig) -> torch.device:
    """Threads, denormals and precision as `device` says, and where tensors live.

    Raises:
        UserError: `cuda` where torch sees none, or not that one; `tf32` elsewhere.
    """
    device = torch_device(cfg.name)
    set_threads(cfg.num_threads)
    _set_tf32(device, cfg.tf32)
    if not torch.set_flush_denormal(bool(cfg.flush_denormals)) and cfg.flush_denormals:
        log.warning("device.flush_denormals=true has no effect on this processor")
    return device


def torch_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, under `torchrun` the process's own; a Raspberry Pi is a CPU.

    Raises:
        UserError: `cuda` where torch sees none, or not that one.
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
    if device.index is None:  # the current one, which `set_device` cannot be asked for
        return device
    if device.index >= count:
        raise UserError("device", device, f"cuda:0 to cuda:{count - 1}, the devices that torch sees here")
    torch.cuda.set_device(device)
    return device


def _set_tf32(device: torch.device, wanted: bool) -> None:
    """Whether float32 products on a GPU are rounded to TF32's ten bits of mantissa before they are multiplied."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = wanted
    elif wanted:
        raise UserError("device.tf32", "true", "false on a CPU: TF32 is a format of NVIDIA's GPUs")


def set_threads(count: int | None) -> None:
    """`count` threads here and in child processes; None goes back to what the process started with."""
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
