"""Building the optimizer over a model to which a method has been applied."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import hydra
import torch
from torch import nn

from wasi.config.arguments import target_of
from wasi.deferred import eager
from wasi.layers.base import LowRankLayer
from wasi.layers.factored import FactoredLinear, trainable_factors
from wasi.models.structure import find_blocks, head_module
from wasi.training.parameter_groups import Group, split
from wasi.training.swan import Swan

log = logging.getLogger(__name__)


def build_optimizer(model: nn.Module, cfg: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Instantiate the optimizer of `optimizer=` over the trainable parameters.

    `Swan`, and SGD without momentum, step on the coordinates `C` of the factored layers that can use them
    (`coordinate_groups`), and log how they step on the factors of others; other optimizers step on `L` and `R`. Weight
    decay acts on the product `L R`, so `L` has none of its own. `head_lr_ratio` is the learning rate of the
    classifier, whose weights start at random, over that of the rest.

    Raises:
        UserError: there is no such optimizer, or an option is not one of its arguments.
    """
    factored = trainable_factors(model)
    for layer in factored:
        layer.C = None  # coordinates of an earlier optimizer
    kind = optimizer_class(cfg)
    on_weights = kind is Swan or (kind is torch.optim.SGD and not cfg.get("momentum"))
    groups = coordinate_groups(model) if on_weights else []
    in_coordinates = [layer for layer in factored if layer.C is not None]
    if on_weights and (others := len(factored) - len(in_coordinates)):
        how = "whitens both factors as any matrices" if kind is Swan else "steps along the tangent space"
        why = "their inputs are kept whole or at a rank above the weight's, or they share factors"
        log.info("%s %s in %d of %d layers with factored weights: %s", kind.__name__, how, others, len(factored), why)
    held = {id(p) for layer in in_coordinates for p in (layer.L, layer.R)}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in held]
    left = {id(layer.L) for layer in factored}
    matrices = {id(p) for p in _block_matrices(model)} if kind is Swan else set()
    groups += split(split([{"params": rest, "whiten": False}], left, weight_decay=0.0), matrices, whiten=True)
    if (ratio := cfg.get("head_lr_ratio", 1.0)) != 1.0:
        groups = split(groups, {id(p) for p in head_module(model).parameters()}, lr=ratio * cfg["lr"])
    return make_optimizer(kind, cfg, groups)


def optimizer_class(cfg: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the class or function that `optimizer._target_` names.

    Raises:
        UserError: there is no such optimizer, or an option is not one of its arguments.
    """
    return target_of("optimizer", cfg, beside=("head_lr_ratio",), filled=("params",))


def make_optimizer(kind: Callable[..., Any], cfg: Mapping[str, Any], groups: list[Group]) -> torch.optim.Optimizer:
    """Instantiate `kind`, the `optimizer_class` of these options, over parameter groups."""
    options = {key: value for key, value in cfg.items() if key != "head_lr_ratio"}
    make = hydra.utils.instantiate(options, _partial_=True, _convert_="all")
    if kind.__module__.startswith("torch.optim.") and not cfg.get("differentiable"):
        return eager(kind)(groups, **make.keywords)
    return make(groups)


def coordinate_groups(model: nn.Module) -> list[Group]:
    """Give coordinates `C` to the factored layers that can use them, and return these in one group per `in_features`.

    Layers that share their factors with another, or that `FactoredLinear.use_coordinates` rejects, get none.
    """
    layers = trainable_factors(model)
    holders = Counter(id(m.L) for m in model.modules() if isinstance(m, FactoredLinear))
    by_width = defaultdict(list)
    for layer in layers:
        if holders[id(layer.L)] == 1 and layer.use_coordinates():
            by_width[layer.in_features].append(layer.C)
    return [{"params": cs, "whiten": True, "in_features": width} for width, cs in by_width.items()]


def _block_matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the matrices of the linear layers inside the transformer blocks, including factors and adapters."""
    for block in find_blocks(model).values():
        for module in block.modules():
            if isinstance(module, (nn.Linear, nn.MultiheadAttention, LowRankLayer)):
                yield from (p for p in module.parameters() if p.dim() == 2)
