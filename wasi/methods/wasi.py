"""WASI and its two halves: factored weights (WSI), low-rank saved inputs (ASI), or both."""

import logging
from dataclasses import dataclass

from torch import Tensor, nn

from wasi.errors import UserError
from wasi.layers.activation import TuckerState
from wasi.layers.factored import FactoredLinear
from wasi.layers.tucker_linear import TuckerLinear
from wasi.linalg.rank import truncate
from wasi.methods.scope import freeze_rest, replace_layers, scope_linears
from wasi.methods.selection import ActivationRanks

log = logging.getLogger(__name__)


@dataclass
class SubspaceMethod:
    """Replaces the linears of `scope`.

    Args:
        weight_epsilon: explained variance that the factors keep of a weight; None leaves weights dense.
        activations: how Tucker ranks are chosen; None saves inputs as they are.
        train_rest: whether what lies outside the scope trains as well (the head always does).
    """

    name: str
    scope: str
    train_rest: bool
    weight_epsilon: float | None = None
    activations: ActivationRanks | None = None

    def apply(self, model: nn.Module, calibration) -> nn.Module:
        linears = scope_linears(model, self.scope)
        if self.weight_epsilon is not None:
            _check_weights(linears)
        states = self.activations.states(model, linears, calibration) if self.activations else {}
        layers = {}
        factors = _SharedFactors(self.weight_epsilon) if self.weight_epsilon is not None else None
        made: dict[int, nn.Module] = {}  # a module used under two names stays one module
        for name, linear in linears.items():
            if id(linear) not in made:
                made[id(linear)] = _layer(name, linear, factors, states.get(name, []))
            layers[name] = made[id(linear)]
        replace_layers(model, layers)
        if not self.train_rest:
            freeze_rest(model)
        return model


def _check_weights(linears: dict[str, nn.Linear]) -> None:
    for name, linear in linears.items():
        if not linear.weight.isfinite().all() or not linear.weight.any():
            raise UserError("model.weights", f"({name})", "a layer whose weight is finite and not zero")


class _SharedFactors:
    """Factors of each weight; linears that share a weight share one pair."""

    def __init__(self, epsilon: float):
        self.epsilon = epsilon
        self._pairs: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}

    def of(self, name: str, weight: Tensor) -> tuple[nn.Parameter, nn.Parameter]:
        if id(weight) not in self._pairs:
            left, right = self._truncate(name, weight)
            self._pairs[id(weight)] = nn.Parameter(left), nn.Parameter(right)
        return self._pairs[id(weight)]

    def _truncate(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        left, right = truncate(weight, self.epsilon)
        size = left.numel() + right.numel()
        if size > weight.numel():
            log.warning(
                "%s: rank %d keeps %d numbers in its factors, more than the %d of the dense weight",
                name, left.shape[1], size, weight.numel(),
            )
        return left, right


def _layer(
    name: str, linear: nn.Linear, factors: _SharedFactors | None, states: list[TuckerState]
) -> FactoredLinear | TuckerLinear:
    if factors is None:
        return TuckerLinear(linear.weight, linear.bias, states)
    return FactoredLinear(*factors.of(name, linear.weight), linear.bias, states)
