"""Sets up the process of a run or of a measurement. Imports torch: for use inside a job."""

import torch
from omegaconf import DictConfig

from wasi.runs.device import prepare_device
from wasi.training.build_step import prepare_allocator
from wasi.training.check_arguments import check_arguments
from wasi.training.compile import check_compiler


def set_up(cfg: DictConfig) -> torch.device:
    """Set up threads, allocator and the global random generator of the process; return the device.

    Raises:
        UserError: there is no such device or no compiler, or an argument of the optimizer or scheduler is refused.
    """
    device = prepare_device(cfg.device)
    prepare_allocator(cfg.train.memory)
    check_compiler(cfg.device.compile, device)
    check_arguments(cfg, device)
    torch.manual_seed(cfg.seed)  # dropout and stochastic depth draw from the global generator
    return device
