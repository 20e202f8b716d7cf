"""Subspace work around the optimizer's step: folding it into factors, retracting weights, updating activation bases.

See `docs/method.md` for the equations.
"""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from wasi.layers.activation import advance
from wasi.layers.base import LowRankLayer
from wasi.layers.factored import FactoredLinear, fold_layers_, project_gradients_, retract_layers_, trainable_factors
from wasi.layers.svd_linear import SvdLinear
from wasi.linalg.precision import full_float32
from wasi.training.parallel import world_size
from wasi.training.swan import Swan


class SubspaceIteration:
    """The work before and after `optimizer.step()` for the low-rank layers of a model; for other models it only clips.

        loss.backward(); norm = subspace.prepare(max_norm=2.0)
        optimizer.step(); subspace.finish()

    Layers with coordinates (`FactoredLinear.C`) fold the optimizer's step `C U^T` into their factors. Under plain SGD,
    whose step is linear in the gradient, the other factored layers step along the tangent space of the matrices of rank
    `K`, and their `L` is made orthonormal again. For other optimizers, factors are ordinary parameters.

    Attributes:
        layers: all low-rank layers; tangent: those that take tangent steps.
        coordinate_layers: those that step on coordinates (`FactoredLinear.C`). Coordinates that `optimizer` does not
            hold, which an earlier one has left, are removed from their layers.
        truncating: the `SvdLinear` layers, whose weights are truncated to rank `K` after every step.

    Another order of calls, in which steps would be lost, is refused by the next step.

    Args:
        summed_over_processes: whether the caller sums the gradients of all that `summed` returns over the processes of
            data-parallel training. `DistributedDataParallel` leaves out coordinates and bases.

    Raises:
        ValueError: what would be decomposed after a step is of a type that decompositions lack, such as bfloat16;
            `optimizer` holds nothing of the low-rank layers that train; or, unless `summed_over_processes`, it is made
            in one of several processes for layers with coordinates or bases, which would train different weights.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, summed_over_processes: bool = False):
        self.optimizer = optimizer
        self.layers = [m for m in model.modules() if isinstance(m, LowRankLayer)]
        factored = trainable_factors(model)
        self._group_of = {id(p): number for number, group in enumerate(optimizer.param_groups) for p in group["params"]}
        for layer in factored:
            if id(layer.C) not in self._group_of:
                layer.C = None
        self.coordinate_layers = [layer for layer in factored if layer.C is not None]
        linear = isinstance(optimizer, torch.optim.SGD) and not any(g["momentum"] for g in optimizer.param_groups)
        self.tangent = [layer for layer in factored if linear and layer.C is None]
        truncated = [m for m in self.layers if isinstance(m, SvdLinear) and m.weight.requires_grad]
        self.truncating = list({id(m.weight): m for m in truncated}.values())
        self._refuse_narrow_types()
        self._refuse_foreign_optimizer()
        if world_size() > 1 and not summed_over_processes:
            self._refuse_unsummed()
        self._whitened = [p for p, _ in optimizer.whitened_parameters()] if isinstance(optimizer, Swan) else []
        whitened = {id(p) for p in self._whitened}
        coordinates = [layer.C for layer in self.coordinate_layers if layer.C is not None]
        self._stepped: list[Tensor] = [*(p for p in model.parameters() if p.requires_grad), *coordinates]
        self._clipped = [p for p in self._stepped if id(p) not in whitened]
        self._order = _call_order(optimizer)
        self._order.begin(needs_prepare=bool(self.tangent or coordinates) and not isinstance(optimizer, Swan))

    def _refuse_narrow_types(self) -> None:
        factors = [factor for layer in [*self.coordinate_layers, *self.tangent] for factor in (layer.L, layer.R)]
        found = [*factors, *(layer.weight for layer in self.truncating), *self._bases()]
        types = {tensor.dtype for tensor in found if tensor is not None}
        narrow = next(iter(types - {torch.float32, torch.float64}), None)
        if narrow is not None:
            raise ValueError(f"weights and bases of {narrow}: they must be float32 or float64, also under autocast")

    def _refuse_foreign_optimizer(self) -> None:
        """Refuse an optimizer made before the layers were replaced, whose steps would change the replaced weights."""
        layers = [(name, p) for layer in self.layers for name, p in layer.named_parameters() if p.requires_grad]
        trained = {id(p) for name, p in layers if name != "bias"}  # biases may be those of the replaced layers
        trained |= {id(layer.C) for layer in self.coordinate_layers}
        if trained and trained.isdisjoint(self._group_of):
            raise ValueError("the optimizer holds no weight of the low-rank layers: make it after `method.apply`")

    def _refuse_unsummed(self) -> None:
        if self.coordinate_layers or any(basis is not None for basis in self._bases()):
            raise ValueError("DistributedDataParallel does not sum the gradients of coordinates and bases over the "
                             "processes: train with train.py, by torchrun")  # fmt: skip

    def _bases(self) -> list[Tensor | None]:
        return [basis for layer in self.layers if layer.state is not None for basis in layer.state.bases]

    def discard(self) -> None:
        """Forget the backward passes since the last step: gradients, and what they have added for the next bases.

        Raises:
            RuntimeError: `Swan` with momentum has added the gradients to its running sums.
        """
        if isinstance(self.optimizer, Swan) and self.optimizer.has_changed_momentum():
            raise RuntimeError("a gradient is in Swan's momentum and cannot be discarded: go back to a checkpoint")
        self.optimizer.zero_grad()
        for basis in self._bases():
            if basis is not None:
                basis.grad = None

    @property
    def cycle(self) -> int:
        """The period, in optimizer steps, of the updates of the bases (`update_gap`); 1 without bases."""
        return max((layer.state.update_gap for layer in self.layers if layer.state is not None), default=1)

    def summed(self) -> list[Tensor]:
        """Return the tensors whose gradients are sums over images: parameters, coordinates, bases due for an update."""
        return [*self._stepped, *(basis for basis in self._bases() if basis is not None and basis.requires_grad)]

    @torch.no_grad()
    def prepare(self, max_norm: float | None) -> Tensor:
        """Prepare the gradients for `optimizer.step()`: project those of tangent layers, then clip by the global norm.

        The contribution to the norm is `||dW||_F = ||M U^T||_F = ||M||_F` for a layer with coordinates, the norm of the
        projected `dW` for a tangent layer, and otherwise the norm of the parameters' gradients. Gradients that `Swan`
        whitens are neither counted nor clipped, since the length of its step does not depend on theirs.

        Args:
            max_norm: the largest norm; None does not clip.

        Returns:
            The norm before clipping, a scalar; NaN if a whitened gradient is not finite.

        Raises:
            RuntimeError: `finish` was not called after the last step.
        """
        self._order.prepare()
        squares = self.tangents()
        in_tangent = {id(p) for layer in self.tangent for p in (layer.L, layer.R)}
        clipped = [p for p in self._clipped if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in clipped if p.grad is not None and id(p) not in in_tangent])
        if squares:
            norm = torch.stack([norm.square().to(squares[0].device), *squares]).sum().sqrt()
        norm = norm + 0.0 * nn.utils.get_total_norm([p.grad for p in self._whitened if p.grad is not None])
        if max_norm is not None:
            nn.utils.clip_grads_with_norm_(clipped, max_norm, norm)
        if not isinstance(self.optimizer, Swan):  # Swan allocates the coordinates itself, one layer at a time
            for layer in self.coordinate_layers:
                if layer.C is not None and layer.C.grad is not None:
                    layer.C.data = torch.zeros_like(layer.C.grad)
        return norm

    @full_float32()
    def tangents(self) -> list[Tensor]:
        """Project the gradients of tangent layers (`project_gradients_`); return the squared norms as `dW`."""
        return project_gradients_(self.tangent)

    @torch.no_grad()
    @full_float32()
    def finish(self) -> None:
        """Complete a step after `optimizer.step()`: fold coordinates, retract or truncate weights, update bases."""
        self._order.finish()
        self.fold()
        retract_layers_(self.tangent)
        for dense in self.truncating:
            dense.retract_()
        self._advance()

    def _advance(self) -> None:
        """Update the bases that are due; layers with coordinates in an updated basis get an orthonormal `L`, too.

        The momentum `S` (`O x r`) of `Swan` is in coordinates of the feature basis `U`. When that becomes `U'`, `S U^T`
        is projected on the span of `U'`, where its coordinates are `S (U^T U')`.
        """
        swan = self.optimizer if isinstance(self.optimizer, Swan) and self.optimizer.momentum else None
        moving = [layer for layer in self.coordinate_layers if _feature_basis(layer).requires_grad]
        before = [None if swan is None else _feature_basis(layer).clone() for layer in moving]
        advance([layer.state for layer in self.layers if layer.state is not None])
        retract_layers_(moving)
        for layer, old in zip(moving, before, strict=True):
            if swan is not None and old is not None and layer.C is not None:
                swan.change_coordinates(layer.C, old.mT @ _feature_basis(layer))

    @torch.no_grad()
    @full_float32()
    def fold(self) -> None:
        """Fold the optimizer's steps on coordinates since the last call into the factors, with weight decay."""
        layers = [layer for layer in self.coordinate_layers if layer.has_pending_step]
        fold_layers_(layers, [self._decay(layer) for layer in layers])

    def _decay(self, layer: FactoredLinear) -> float:
        """Return the factor `1 - lr * weight_decay` of the product of a layer with coordinates."""
        group = self.optimizer.param_groups[self._group_of[id(layer.C)]]  # looked up: loading a state replaces groups
        return 1 - group["lr"] * group["weight_decay"]


def _feature_basis(layer: FactoredLinear) -> Tensor:
    """Return `U` (`I x r`) of a layer with coordinates, which always has one."""
    assert layer.state is not None and layer.state.feature_basis is not None
    return layer.state.feature_basis


class _CallOrder:
    """Refuses `prepare` and `optimizer.step` before `finish` of the last step, and a step that lacks its `prepare`."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        optimizer.register_step_pre_hook(lambda *_: self._before_step())
        optimizer.register_step_post_hook(lambda *_: self._after_step())
        self.begin(needs_prepare=False)

    def begin(self, needs_prepare: bool) -> None:
        """Begin anew; `needs_prepare` says whether `prepare` does more than clip."""
        self._needs_prepare, self._is_prepared, self._is_finished = needs_prepare, False, True

    def prepare(self) -> None:
        """Note that `prepare` is called.

        Raises:
            RuntimeError: the last step has not been finished.
        """
        self._refuse_unfinished()
        self._is_prepared = True

    def finish(self) -> None:
        """Note that `finish` is called."""
        self._is_finished = True

    def _before_step(self) -> None:
        self._refuse_unfinished()
        if self._needs_prepare and not self._is_prepared:
            raise RuntimeError("call SubspaceIteration.prepare() after the backward pass, before optimizer.step()")

    def _after_step(self) -> None:
        self._is_prepared, self._is_finished = False, False

    def _refuse_unfinished(self) -> None:
        if not self._is_finished:
            raise RuntimeError("call SubspaceIteration.finish() after optimizer.step(): the last step is not complete")


_orders: WeakKeyDictionary[torch.optim.Optimizer, _CallOrder] = WeakKeyDictionary()


def _call_order(optimizer: torch.optim.Optimizer) -> _CallOrder:
    """Return the one object that watches the calls around this optimizer's steps, by whichever `SubspaceIteration`."""
    if optimizer not in _orders:
        _orders[optimizer] = _CallOrder(optimizer)
    return _orders[optimizer]
