"""The step that a configuration asks for."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from wasi.allocator import keep_freed_memory, release_memory, return_large_blocks
from wasi.layers.autocast import autocast_forward
from wasi.methods.method import Method
from wasi.models.mapped import into_memory
from wasi.training import parallel
from wasi.training.baselines import mark_projected
from wasi.training.checkpointing import checkpoint_blocks
from wasi.training.compile import compile_blocks
from wasi.training.lean import LeanStep
from wasi.training.optimizer import build_optimizer
from wasi.training.step import TrainStep

_CHUNK_MIB = 5.0  # of ViT-B/32 8 images: as quick as 16, in 70 MiB less
_SET_UP_BLOCK = 2**18  # bytes: from this size on a block that is freed goes back, whatever the time that takes


def prepare_allocator(memory: str) -> None:
    """Before a model is built for `train.memory`: under lean, what set-up frees goes back at once."""
    if memory == "lean":
        return_large_blocks(_SET_UP_BLOCK)


def build_step(
    model: nn.Module, normalize: Callable[[Tensor], Tensor], cfg: DictConfig, method: Method | None = None
) -> TrainStep:
    """Optimizer, clipping, accumulation, checkpointing, memory policy, precision and compiler, as configured.

    Args:
        model: with the method applied, so that the optimizer sees what really trains.
        normalize: uint8 images to float32.
        method: that was applied; its parameter groups and its way of stepping count.
    """
    method, model = method or Method(), into_memory(model)
    train = cfg.train
    parallel.equal(model)
    options = {
        "clip_norm": train.clip_norm,
        "micro_batch_size": train.micro_batch_size,
        "step_in_backward": train.step_in_backward,
        "label_smoothing": cfg.augment.label_smoothing,
    }
    if cfg.device.compile:
        compile_blocks(model)
    if train.gradient_checkpointing:
        options["repeated"] = checkpoint_blocks(model)
    if "rank" in cfg.optimizer:
        mark_projected(model, cfg.method.scope)
    if cfg.device.dtype != "float32":
        autocast_forward(model, getattr(torch, cfg.device.dtype))
    optimizer = build_optimizer(model, cfg.optimizer)
    _regroup(optimizer, method.parameter_groups(model, optimizer.defaults))
    if train.memory == "plain":
        keep_freed_memory()
        return method.wrap_step(TrainStep(model, optimizer, normalize, **options))
    release_memory()  # what set-up left behind
    step = LeanStep(
        model,
        optimizer,
        normalize,
        chunk_size=train.chunk_size or 16,
        chunk_mib=_chunk_mib(cfg, model),
        segment_size=train.segment_size or 2,
        storage=getattr(torch, train.storage or "bfloat16"),
        **options,
    )
    return method.wrap_step(step)


def _chunk_mib(cfg: DictConfig, model: nn.Module) -> float | None:
    """`train.chunk_mib`. A budget chooses the chunk itself, and a GPU has room and wants large products."""
    given = cfg.train.chunk_mib
    if given is None and cfg.train.memory_budget_mib is None and next(model.parameters()).device.type == "cpu":
        return _CHUNK_MIB
    return given


def _regroup(optimizer: torch.optim.Optimizer, groups: Iterable[dict[str, Any]]) -> None:
    """Take the parameters of `groups` out of the optimizer's groups and add these."""
    for group in groups:
        taken = {id(p) for p in group["params"]}
        for other in optimizer.param_groups:
            other["params"] = [p for p in other["params"] if id(p) not in taken]
        optimizer.param_groups = [other for other in optimizer.param_groups if other["params"]]
        optimizer.add_param_group(group)
