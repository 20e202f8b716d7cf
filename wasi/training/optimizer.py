"""The optimizer over a model that a method has already been applied to."""

import hydra
import torch
from omegaconf import DictConfig
from torch import nn

from wasi.training.subspace import SubspaceIteration


def build_optimizer(model: nn.Module, cfg: DictConfig) -> torch.optim.Optimizer:
    """Instantiate `optimizer=` over what trains.

    Weight decay acts on the product `L R`, so it scales `R` once and leaves the orthonormal `L` alone.
    """
    subspace = SubspaceIteration(model)
    left = [layer.L for layer in subspace.factored]
    skip = {id(p) for p in left}
    groups = [{"params": [p for p in subspace.parameters if id(p) not in skip]}]
    if left:
        groups.append({"params": left, "weight_decay": 0.0})
    return hydra.utils.instantiate(cfg, _partial_=True, _convert_="all")(groups)
