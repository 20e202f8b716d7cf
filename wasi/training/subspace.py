"""What turns a step of any torch optimizer into one step of subspace iteration (DESIGN 3.3)."""

from collections import Counter

import torch
from torch import Tensor, nn

from wasi.layers.base import LowRankLayer
from wasi.layers.factored import FactoredLinear
from wasi.linalg.thin_step import ThinTangent, thin_step_


class SubspaceIteration:
    """The work around `optimizer.step()` for a model with low-rank layers; nothing to do for one without.

    >>> loss.backward(); norm = subspace.prepare(max_norm=2.0)
    >>> optimizer.step(); subspace.finish()

    Where `optimizer` is plain SGD, layers that can do so leave their weight gradient as coordinates, and the
    same step is made thinly here (`linalg.thin_step`) instead of by the optimizer.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None):
        self.layers = [m for m in model.modules() if isinstance(m, LowRankLayer)]
        factored = trainable_factors(model)
        thin = optimizer is not None and _is_plain_sgd(optimizer)
        alone = _sole_holders(model)  # tied layers each see a part of the gradient, which autograd adds up
        self.thin = [
            ThinLayer(layer, optimizer) for layer in factored if thin and layer in alone and layer.can_collect()
        ]
        collecting = {id(t.layer) for t in self.thin}
        self.factored = [layer for layer in factored if id(layer) not in collecting]
        once = {id(m.retracted): m for m in self.layers if m.retracted is not None and moves_in_subspace(m)}
        self.retracting = [layer for layer in once.values() if id(layer) not in collecting]
        in_factors = {id(p) for layer in factored for p in (layer.L, layer.R)}
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.rest = [p for p in self.parameters if id(p) not in in_factors]

    @torch.no_grad()
    def prepare(self, max_norm: float | None) -> Tensor:
        """Between `backward` and `step`: tangent gradients, then clipping by their global norm.

        The norm is the one that the gradient of the products `L R` has in the tangent space, together with
        the ordinary gradients of all other parameters. Returned as it was before clipping.
        """
        squares = self.tangents()
        rest = nn.utils.get_total_norm([p.grad for p in self.rest if p.grad is not None])
        norm = torch.stack([rest.square(), *squares]).sum().sqrt() if squares else rest
        if max_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, max_norm, norm)
            for thin in self.thin:
                thin.scale_((max_norm / (norm + 1e-6)).clamp(max=1.0))  # as torch's clipping does
        return norm

    def tangents(self) -> list[Tensor]:
        """Turn the factors' gradients into tangent gradients; their squared lengths in weight space."""
        squares = [layer.tangent_() for layer in self.factored if layer.L.grad is not None]
        return squares + [thin.tangent_() for thin in self.thin]

    @torch.no_grad()
    def finish(self) -> None:
        """After `step`: weights back at their rank (`L` orthonormal again), activation bases moved on."""
        for layer in self.retracting:
            layer.retract_()
        for thin in self.thin:
            thin.step_()
        for layer in self.layers:
            layer.advance()


# `||L^T L - I||_F` up to which a thin step leaves `L` as it is: retraction changes nothing about `L R`, and the
# tangent projection is as exact as `L` is orthonormal.
MAX_DRIFT = 1e-4


class ThinLayer:
    """One layer's plain SGD step from its gradient's coordinates, with the rates of the optimizer's groups.

    A thin step hardly moves `L^T L`, so `L` is brought back only when the steps since may have added up.
    """

    def __init__(self, layer: FactoredLinear, optimizer: torch.optim.Optimizer):
        layer.collects = True
        self.layer = layer
        self.tangent: ThinTangent | None = None
        groups = enumerate(optimizer.param_groups)
        self._optimizer = optimizer  # loading a state gives it new groups, so theirs is looked up at each step
        self._group = next(i for i, group in groups if any(p is layer.R for p in group["params"]))

    def tangent_(self) -> Tensor:
        layer = self.layer
        if layer.coordinates is None:  # it took no part in this step
            return layer.L.new_zeros(())
        self.tangent = layer.thin_tangent()
        return self.tangent.square

    def scale_(self, factor: Tensor) -> None:
        if self.tangent is not None:
            self.tangent.scale_(factor)

    def step_(self) -> None:
        if self.tangent is None:
            return
        group = self._optimizer.param_groups[self._group]
        layer = self.layer
        rates = group["lr"], group["weight_decay"]
        layer.drift.copy_(thin_step_(layer.L, layer.R, self.tangent, *rates, layer.drift))
        if layer.drift > MAX_DRIFT:
            layer.retract_()
        self.tangent = None


def trainable_factors(model: nn.Module) -> list[FactoredLinear]:
    """Layers whose factors take subspace steps; tied layers share one pair, which counts, and steps, once."""
    layers = [m for m in model.modules() if isinstance(m, FactoredLinear) and m.L.requires_grad]
    layers = [m for m in layers if moves_in_subspace(m)]
    return list({id(m.L): m for m in layers}.values())


def moves_in_subspace(layer: LowRankLayer) -> bool:
    """False where `method.update=none` leaves a layer's factors to the optimizer, as ordinary parameters."""
    return getattr(layer, "update", "subspace") != "none"


def _sole_holders(model: nn.Module) -> set[FactoredLinear]:
    layers = [m for m in model.modules() if isinstance(m, FactoredLinear)]
    holders = Counter(id(layer.L) for layer in layers)
    return {layer for layer in layers if holders[id(layer.L)] == 1}


def _is_plain_sgd(optimizer: torch.optim.Optimizer) -> bool:
    """SGD without state, whose step is linear in the gradient, in one process.

    Data parallelism averages gradients of parameters, so there the factors must have theirs.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return False
    return type(optimizer) is torch.optim.SGD and all(
        g["momentum"] == 0 and not g["maximize"] for g in optimizer.param_groups
    )
