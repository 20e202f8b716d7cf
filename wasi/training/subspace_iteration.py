"""What belongs to a step beside the optimizer: factors take it in, and activation bases move on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wasi.layers.activation import advance
from wasi.layers.base import LowRankLayer
from wasi.layers.factored import FactoredLinear, fold_all_
from wasi.layers.svd_linear import SvdLinear
from wasi.training.optimizer import trainable_factors
from wasi.training.swan import Swan


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Inside, float32 products are in float32 under `device.tf32=true` too: what is orthonormal stays so."""
    tf32 = torch.backends.cuda.matmul.allow_tf32
    if tf32:
        torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        if tf32:
            torch.backends.cuda.matmul.allow_tf32 = True


class SubspaceIteration:
    """The work around `optimizer.step()` for a model with low-rank layers; nothing to do for one without.

        loss.backward(); norm = subspace.prepare(max_norm=2.0)
        optimizer.step(); subspace.finish()

    Layers whose optimizer acts on coordinates (`FactoredLinear.C`) fold its step into their factors. Under plain SGD,
    whose step is linear in the gradient, the other factored layers step along the tangent space of their product
    and are brought back to an orthonormal `L`. To an optimizer with state, factors are ordinary parameters.

    `folding`, `tangent`: the layers of these two kinds; `truncating`: dense weights that `SvdLinear` cuts back to their
    rank after every step.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer
        self.layers = [m for m in model.modules() if isinstance(m, LowRankLayer)]
        factored = trainable_factors(model)
        self.folding = [layer for layer in factored if layer.C is not None]
        linear = isinstance(optimizer, torch.optim.SGD) and not any(g["momentum"] for g in optimizer.param_groups)
        self.tangent = [layer for layer in factored if linear and layer.C is None]
        truncated = [m for m in self.layers if isinstance(m, SvdLinear) and m.weight.requires_grad]
        self.truncating = list({id(m.weight): m for m in truncated}.values())
        self._group_of = {id(p): number for number, group in enumerate(optimizer.param_groups) for p in group["params"]}
        self._whitened = [p for p, _ in optimizer.whitened_parameters()] if isinstance(optimizer, Swan) else []
        whitened = {id(p) for p in self._whitened}
        coordinates = [layer.C for layer in self.folding if layer.C is not None]
        self._stepped: list[Tensor] = [*(p for p in model.parameters() if p.requires_grad), *coordinates]
        self._clipped = [p for p in self._stepped if id(p) not in whitened]

    @property
    def cycle(self) -> int:
        """Optimizer steps after which the work in a step repeats itself."""
        return max((layer.state.update_gap for layer in self.layers if layer.state is not None), default=1)

    def summed(self) -> list[Tensor]:
        """What has a gradient that is a sum over a step's images: what is stepped on, and bases about to move."""
        bases = [basis for layer in self.layers if layer.state is not None for basis in layer.state.bases]
        return [*self._stepped, *(basis for basis in bases if basis is not None and basis.requires_grad)]

    @torch.no_grad()
    def prepare(self, max_norm: float | None) -> Tensor:
        """Between `backward` and `step`: tangent gradients, clipping by the global norm, which is returned.

        Of a layer in coordinates the norm is that of `dW` itself, `||M U^T||_F = ||M||_F`; of a tangent step, the
        length in weight space; else that of the parameters' gradients. Returned as it was before clipping.
        Gradients that `Swan` whitens are neither counted nor clipped: its step has one length whatever theirs is. Where
        one of them is not finite, neither is what is returned.
        """
        squares = self.tangents()
        in_tangent = {id(p) for layer in self.tangent for p in (layer.L, layer.R)}
        clipped = [p for p in self._clipped if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in clipped if p.grad is not None and id(p) not in in_tangent])
        if squares:
            norm = torch.stack([norm.square(), *squares]).sum().sqrt()
        norm = norm + 0.0 * nn.utils.get_total_norm([p.grad for p in self._whitened if p.grad is not None])
        if max_norm is not None:
            nn.utils.clip_grads_with_norm_(clipped, max_norm, norm)
        if not isinstance(self.optimizer, Swan):  # which makes coordinates one layer at a time
            for layer in self.folding:
                if layer.C is not None and layer.C.grad is not None:
                    layer.C.data = torch.zeros_like(layer.C.grad)
        return norm

    @_whole_float32()
    def tangents(self) -> list[Tensor]:
        """Turn gradients of factors into tangent gradients; their squared lengths in weight space."""
        return [layer.tangent_() for layer in self.tangent if layer.L.grad is not None]

    @torch.no_grad()
    @_whole_float32()
    def finish(self) -> None:
        """After `step`: steps folded, weights back at their rank, activation bases moved on."""
        self.fold()
        for layer in self.tangent:
            layer.retract_()
        for dense in self.truncating:
            dense.retract_()
        self._advance()

    def _advance(self) -> None:
        """Move the bases that are due, and make `L` orthonormal again where a layer steps in their coordinates.

        What the optimizer remembers of past steps is in coordinates of the feature basis `U`, and is taken to those of
        the next, `U'`: `S U^T` projected on the span of `U'` has the coordinates `S (U^T U')`.
        """
        swan = self.optimizer if isinstance(self.optimizer, Swan) and self.optimizer.momentum else None
        moving = [layer for layer in self.folding if _feature_basis(layer).requires_grad]
        before = [None if swan is None else _feature_basis(layer).clone() for layer in moving]
        advance([layer.state for layer in self.layers if layer.state is not None])
        for layer, old in zip(moving, before, strict=True):
            layer.retract_()
            if swan is not None and old is not None and layer.C is not None:
                swan.change_coordinates(layer.C, old.mT @ _feature_basis(layer))

    @torch.no_grad()
    @_whole_float32()
    def fold(self) -> None:
        """Take the steps that the optimizer has made in coordinates, since the last call, into the factors."""
        layers = [layer for layer in self.folding if layer.has_update]
        fold_all_(layers, [self._decay(layer) for layer in layers])

    def _decay(self, layer: FactoredLinear) -> float:
        """What weight decay leaves of the product of a layer that steps in coordinates."""
        group = self.optimizer.param_groups[self._group_of[id(layer.C)]]  # looked up: loading a state makes new ones
        return 1 - group["lr"] * group["weight_decay"]


def _feature_basis(layer: FactoredLinear) -> Tensor:
    """Of a layer that steps in coordinates, so it has one."""
    assert layer.state is not None and layer.state.feature_basis is not None
    return layer.state.feature_basis
