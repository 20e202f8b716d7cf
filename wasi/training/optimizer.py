"""The optimizer over a model that a method has already been applied to."""

import hydra
import torch
from omegaconf import DictConfig
from torch import nn

from wasi.training.subspace import trainable_factors


def build_optimizer(model: nn.Module, cfg: DictConfig) -> torch.optim.Optimizer:
    """Instantiate `optimizer=` over what trains.

    Weight decay acts on the product `L R`, so it scales `R` once and leaves the orthonormal `L` alone.
    """
    left = [layer.L for layer in trainable_factors(model)]
    skip = {id(p) for p in left}
    groups = [{"params": [p for p in model.parameters() if p.requires_grad and id(p) not in skip]}]
    if left:
        groups.append({"params": left, "weight_decay": 0.0})
    return hydra.utils.instantiate(cfg, _partial_=True, _convert_="all")(groups)
