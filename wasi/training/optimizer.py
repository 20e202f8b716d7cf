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
    """Make the optimizer of `optimizer=` over the trainable parameters, see `optimizer_for`.

    Raises:
        UserError: there is no such optimizer, or an option is not one of its arguments.
    """
    return optimizer_for(model, optimizer_class(cfg), **optimizer_arguments(cfg))


def optimizer_for(
    model: nn.Module, kind: Callable[..., Any], head_lr_ratio: float = 1.0, **arguments: Any
) -> torch.optim.Optimizer:
    """Make an optimizer over the trainable parameters of a model to which a method has been applied.

    `Swan`, and SGD without momentum, step on the coordinates `C` of the factored layers that can use them
    (`coordinate_groups`), and log how they step on the factors of others; other optimizers step on `L` and `R`. Weight
    decay acts on the product `L R`, so `L` has none of its own.

    Args:
        kind: the optimizer's class, or a function that returns one.
        head_lr_ratio: the learning rate of the classifier, whose weights start at random, over that of the rest.
        arguments: of `kind`, with `lr` where `head_lr_ratio` is not 1.

    Raises:
        TypeError: `head_lr_ratio` is given without `lr`.
    """
    if head_lr_ratio != 1.0 and "lr" not in arguments:
        raise TypeError(f"head_lr_ratio={head_lr_ratio} multiplies lr, which is not given")
    factored = trainable_factors(model)
    for layer in factored:
        layer.C = None  # coordinates of an earlier optimizer
    on_weights = kind is Swan or (kind is torch.optim.SGD and not arguments.get("momentum"))
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
    if head_lr_ratio != 1.0:
        groups = split(groups, {id(p) for p in head_module(model).parameters()}, lr=head_lr_ratio * arguments["lr"])
    return make_optimizer(kind, groups, arguments)


def optimizer_class(cfg: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the class or function that `optimizer._target_` names.

    Raises:
        UserError: there is no such optimizer, or an option is not one of its arguments.
    """
    return target_of("optimizer", cfg, beside=("head_lr_ratio",), filled=("params",))


def optimizer_arguments(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `optimizer=` as the arguments of `optimizer_for`, those with a `_target_` instantiated."""
    return hydra.utils.instantiate(cfg, _partial_=True, _convert_="all").keywords


def make_optimizer(
    kind: Callable[..., Any], groups: list[Group], arguments: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """Make an optimizer over parameter groups; one of torch's without importing torch's compiler."""
    is_torchs = kind.__module__.startswith("torch.optim.")
    return (eager(kind) if is_torchs and not arguments.get("differentiable") else kind)(groups, **arguments)


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
