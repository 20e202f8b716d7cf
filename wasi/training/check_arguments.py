"""Checks the values of `optimizer.*` and `scheduler.*` by making both once, before data and weights are loaded."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from wasi.errors import UserError, type_and_text
from wasi.training.baselines import mark
from wasi.training.optimizer import make_optimizer, optimizer_arguments, optimizer_class
from wasi.training.schedule import make_scheduler

_STEPS_PER_EPOCH = 9973  # for the scheduler; a prime, so that no usual share of the steps is exactly one step
_WIDTH = 256  # of the matrix and the vector, so that an optimizer's rank fits
_OWN = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")  # keys of Hydra's, not arguments


def check_arguments(cfg: DictConfig, device: torch.device) -> None:
    """Make the optimizer over a matrix and a vector, take a step if it is torch's, and make the scheduler.

    Raises:
        UserError: that fails. It names the argument without which it would not, or else the class.
    """
    steps = _STEPS_PER_EPOCH * cfg.train.epochs
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # a class of one's own may draw numbers
        optimizer = _made("optimizer", cfg.optimizer, lambda options: _made_optimizer(options, device))
        _made("scheduler", cfg.scheduler, lambda options: make_scheduler(options, optimizer, steps, _STEPS_PER_EPOCH))


def _made_optimizer(options: Mapping[str, Any], device: torch.device) -> torch.optim.Optimizer:
    matrix, vector = (nn.Parameter(torch.zeros(*shape, device=device)) for shape in ((_WIDTH, _WIDTH), (_WIDTH,)))
    mark(matrix)
    kind = optimizer_class(options)
    arguments = {key: value for key, value in optimizer_arguments(options).items() if key != "head_lr_ratio"}
    optimizer = make_optimizer(kind, [{"params": [matrix, vector], "whiten": False}], arguments)
    if kind.__module__.startswith("torch.optim."):  # what does not go together is found by some in the first step
        for parameter in (matrix, vector):
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    return optimizer


def _made(section: str, cfg: DictConfig, make: Callable[[Mapping[str, Any]], Any]) -> Any:
    """Return what `make` makes of the section's options; raise UserError, of the option to blame, if it cannot."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the training itself will show them
            return make(cfg)
    except UserError:
        raise
    except Exception as error:
        told = type_and_text(error)[:300]
        options = {str(key): value for key, value in cfg.items()}
        for key in options:
            if key not in _OWN and _can_be_made({k: v for k, v in options.items() if k != key}, make):
                given = str(cfg[key]).lower() if isinstance(cfg[key], bool) else cfg[key]
                raise UserError(f"{section}.{key}", given, f"what {cfg['_target_']} takes ({told})") from error
        raise UserError(f"{section}._target_", cfg["_target_"], f"what these options fit ({told})") from error


def _can_be_made(options: Mapping[str, Any], make: Callable[[Mapping[str, Any]], Any]) -> bool:
    try:
        make(options)
    except Exception:  # classes raise many types of errors
        return False
    return True
