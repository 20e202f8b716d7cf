"""Learning-rate schedules in closed form of the step, so that a resumed run continues exactly."""

from collections.abc import Mapping
from math import cos, pi
from typing import Any

import hydra
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from wasi.config.arguments import target_of


def make_scheduler(cfg: Mapping[str, Any], optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> Any:
    """Instantiate the scheduler of `scheduler=`.

    Raises:
        UserError: there is no such scheduler, or an option is not one of its arguments.
    """
    filled = {"optimizer": optimizer, "total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
    target_of("scheduler", cfg, filled=filled)
    return hydra.utils.instantiate(cfg, _partial_=True)(**filled)


def cosine(
    optimizer: Optimizer, total_steps: int, steps_per_epoch: int, warmup_epochs: float, min_lr_ratio: float
) -> LambdaLR:
    """Linear warm-up over `warmup_epochs`, then a half cosine down to `min_lr_ratio` of the learning rate."""
    warmup = round(warmup_epochs * steps_per_epoch)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        return min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + cos(pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)


def constant(
    optimizer: Optimizer, total_steps: int, steps_per_epoch: int, warmup_epochs: float
) -> LambdaLR:
    """Linear warm-up over `warmup_epochs`, then a constant learning rate."""
    warmup = round(warmup_epochs * steps_per_epoch)
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup) if warmup else 1.0)
