"""Building the training step that a configuration describes."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from wasi.allocator import keep_freed_memory, release_memory, return_large_blocks
from wasi.config.relevance import lean_defaults
from wasi.errors import UserError
from wasi.layers.autocast import autocast_forward
from wasi.methods.method import Method
from wasi.models.mapped import into_memory
from wasi.training import parallel
from wasi.training.baselines import mark_projected
from wasi.training.compile import compile_blocks
from wasi.training.gradient_checkpointing import checkpoint_blocks
from wasi.training.lean import LeanStep
from wasi.training.optimizer import build_optimizer
from wasi.training.parameter_groups import Group, split
from wasi.training.step import TrainStep

_SET_UP_BLOCK = 2**18  # bytes: during set-up, freed blocks of this size and more go back to the system at once


def prepare_allocator(memory: str) -> None:
    """Prepare the allocator before a model is built; `memory` is `train.memory`.

    For `lean`, blocks that are freed during set-up go back to the system at once.
    """
    if memory == "lean":
        return_large_blocks(_SET_UP_BLOCK)


def build_step(
    model: nn.Module, normalize: Callable[[Tensor], Tensor], cfg: DictConfig, method: Method | None = None
) -> TrainStep:
    """Build the step with optimizer, clipping, accumulation, checkpointing, memory policy, precision and compiler.

    Args:
        model: the model with the method applied; its parameters with `requires_grad` are trained.
        normalize: converts uint8 images to normalised float32.
        cfg: the run's configuration.
        method: the applied method, for its `parameter_groups` and `wrap_step`; None for a plain `Method`.

    Raises:
        UserError: an option cannot be combined with the model, the optimizer or the method.
    """
    method, model = method or Method(), into_memory(model)
    train = cfg.train
    parallel.broadcast_model(model)
    options = {
        "clip_norm": train.clip_norm,
        "micro_batch_size": train.micro_batch_size,
        "step_in_backward": train.step_in_backward,
        "label_smoothing": cfg.augment.label_smoothing,
    }
    if cfg.device.compile:
        compile_blocks(model)
    if train.gradient_checkpointing:
        checkpoint_blocks(model)
    if "rank" in cfg.optimizer:
        mark_projected(model, cfg.method.scope)
    if cfg.device.dtype != "float32":
        autocast_forward(model, getattr(torch, cfg.device.dtype))
    optimizer = build_optimizer(model, cfg.optimizer)
    _regroup(optimizer, method.parameter_groups(model, optimizer.defaults))
    if train.memory == "plain":
        keep_freed_memory()
        step = TrainStep(model, optimizer, normalize, **options)
    else:
        release_memory()  # free heap memory left by set-up
        lean = _lean_options(cfg, next(model.parameters()).device.type)
        step = LeanStep(model, optimizer, normalize, **lean, **options)
    step = method.wrap_step(step)
    if train.step_in_backward and step.penalties:  # their gradients come after the backward pass of the loss
        raise UserError("train.step_in_backward", "true", "false for a method that adds penalties to the loss")
    return step


def _lean_options(cfg: DictConfig, device: str) -> dict[str, Any]:
    """Return the arguments of `LeanStep`: the options of `train.memory=lean`, with nulls replaced by the defaults."""
    defaults = lean_defaults(cfg.train.memory_budget_mib, device)
    found = {key: default if cfg.train[key] is None else cfg.train[key] for key, default in defaults.items()}
    return found | {"storage": getattr(torch, found["storage"])}


def _regroup(optimizer: torch.optim.Optimizer, groups: Iterable[Group]) -> None:
    """Move the parameters of `groups` from the optimizer's groups into new ones with the options of `groups`.

    An option that `groups` does not set keeps the value that the parameter's old group had (whitened, no weight decay,
    projected). So the parameters of one group may end up in several. Parameters the optimizer did not have are added.
    """
    for group in groups:
        options = {key: value for key, value in group.items() if key != "params"}
        held = {id(p) for other in optimizer.param_groups for p in other["params"]}
        optimizer.param_groups[:] = split(optimizer.param_groups, {id(p) for p in group["params"]}, **options)
        if new := [p for p in group["params"] if id(p) not in held]:
            optimizer.add_param_group({**group, "params": new})
