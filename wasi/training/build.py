"""The step that a configuration asks for."""

from collections.abc import Callable

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from wasi.allocator import keep_freed_memory
from wasi.training.checkpointing import checkpoint_blocks
from wasi.training.lean import LeanStep
from wasi.training.optimizer import build_optimizer
from wasi.training.step import TrainStep


def build_step(model: nn.Module, normalize: Callable[[Tensor], Tensor], cfg: DictConfig) -> TrainStep:
    """`optimizer`, clipping, accumulation, checkpointing and memory policy of `optimizer=` and `train.*`.

    Args:
        model: with the method applied, so that the optimizer sees what really trains.
        normalize: uint8 images to float32.
    """
    train = cfg.train
    options = {"clip_norm": train.clip_norm, "micro_batch_size": train.micro_batch_size}
    if train.gradient_checkpointing:
        options["repeated"] = checkpoint_blocks(model)
    optimizer = build_optimizer(model, cfg.optimizer)
    if train.memory == "plain":
        keep_freed_memory()
        return TrainStep(model, optimizer, normalize, **options)
    return LeanStep(
        model,
        optimizer,
        normalize,
        chunk_size=train.chunk_size or 16,
        segment_size=train.segment_size or 2,
        storage=getattr(torch, train.storage or "bfloat16"),
        **options,
    )
