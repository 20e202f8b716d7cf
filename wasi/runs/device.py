"""`device=` put into effect in this process. Imports torch: for use inside a job."""

import logging
import os
from functools import cache

import torch
from omegaconf import DictConfig

from wasi.errors import UserError

log = logging.getLogger(__name__)


def prepare_device(cfg: DictConfig) -> torch.device:
    """Threads and denormals as `device` says, and where tensors live.

    Raises:
        UserError: `cuda` where torch sees none.
    """
    device = torch_device(cfg.name)
    set_threads(cfg.num_threads)
    if not torch.set_flush_denormal(bool(cfg.flush_denormals)) and cfg.flush_denormals:
        log.warning("device.flush_denormals=true has no effect on this processor")
    return device


def torch_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; a Raspberry Pi is a CPU.

    Raises:
        UserError: `cuda` where torch sees none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("device", "cuda", "auto or cpu, as torch sees no CUDA device here")
    return torch.device("cuda" if available and name in ("auto", "cuda") else "cpu")


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
