"""WASI and its two halves: factored weights (WSI), low-rank saved inputs (ASI), or both."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from wasi.errors import UserError
from wasi.layers.activation import TuckerState
from wasi.layers.base import LowRankLayer
from wasi.layers.factored import FactoredLinear
from wasi.layers.svd_linear import SvdLinear
from wasi.layers.tucker_linear import TuckerLinear
from wasi.linalg.rank import truncate, weight_rank
from wasi.methods.calibration import decomposing
from wasi.methods.feature_init import FeatureMoments, feature_moments
from wasi.methods.method import Method
from wasi.methods.output_init import OutputMoments, output_moments
from wasi.methods.random_init import random_factors
from wasi.methods.scope import check_weights, freeze_rest, replace_each, scope_linears
from wasi.methods.selection import ActivationRanks
from wasi.methods.weight_ranks import OPTION, check_allocation, log_ranks, sensitivity_ranks
from wasi.models.restart import given_factors

log = logging.getLogger(__name__)

# method.init -> what is looked at on calibration data, by the weight's id.
_MOMENTS: dict[str, Callable[..., Mapping[int, OutputMoments]]] = {
    "svd": lambda *_: {}, "random": lambda *_: {}, "output": output_moments, "features": feature_moments,
}  # fmt: skip


@dataclass
class SubspaceMethod(Method):
    """Replaces the linears of `scope`.

    Args:
        weight_epsilon: explained variance that the factors keep of a weight; None leaves weights dense.
        update: of the weights: `subspace`, an optimizer without state steps on the product `L R`, and one with state on
            the factors, where weight decay leaves `L` alone; `none`, any optimizer steps on the factors, as ordinary
            parameters; `svd`, the paper's baseline for WSI, on the dense product, which an SVD truncates to the same
            rank after each step.
        preconditioner: when `(R R^T)^-1 R U` of a subspace step is computed anew: in every `step`, or when the feature
            `basis` moves, for less time in between (see docs/method.md).
        init: where the factors start, at the same rank: `svd`, at the truncated weight (the paper's); `output` and
            `features`, in the subspace that matters most on calibration data for the layer's outputs, or for the
            model's final features, with what the mean output loses in the bias; `random`, a control, anywhere,
            with the weight's Frobenius norm.
        seed: of `init=random`.
        calibration_batches: training batches that `init=output` and `features` look at.
        weight_allocation: `epsilon`, every weight keeps `weight_epsilon` of its own; `sensitivity` (with
            `init=features`), as many parameters in all, but at the ranks that move the model's final features
            least, with no factors larger than their dense weight.
        parameter_ratio: with `sensitivity`, the parameters of all factors as a share of the dense weights', in
            place of `weight_epsilon`.
        activations: how Tucker ranks are chosen; None saves inputs as they are.
        train_rest: whether what lies outside the scope trains as well (the head always does).
    """

    appearance = {
        "wasi": {
            "order": 2, "colour": "#0072B2", "marker": "o", "subject": True, "title": "WASI",
            "about": "weights held as two thin factors, saved inputs as small Tucker tensors, both followed by "
            "subspace iteration (arXiv 2510.09160)",
        },
        "wsi": {"order": 3, "colour": "#009E73", "marker": "^", "about": "wasi's factored weights, inputs saved whole"},
        "asi": {"order": 4, "colour": "#CC79A7", "marker": "v", "about": "wasi's compressed inputs, dense weights"},
    }  # fmt: skip
    worth_tuning = {
        "wasi": {"method.init": ["svd", "output", "features"]},
        "wsi": {"method.init": ["svd", "output", "features"]},
    }

    name: str
    scope: str
    train_rest: bool
    weight_epsilon: float | None = None
    activations: ActivationRanks | None = None
    update: str = "subspace"
    preconditioner: str = "step"
    init: str = "svd"
    calibration_batches: int = 1
    seed: int = 0
    weight_allocation: str = "epsilon"
    parameter_ratio: float | None = None

    def __post_init__(self) -> None:
        if self.init not in _MOMENTS:
            raise UserError("method.init", self.init, "svd, output, features or random")
        if self.init != "svd" and self.weight_epsilon is None:
            raise UserError("method.init", self.init, f"for method=wasi or wsi, not for {self.name}")
        check_allocation(self.weight_allocation, self.parameter_ratio)
        if self.weight_allocation == "sensitivity" and self.init != "features":
            raise UserError(OPTION, self.weight_allocation, f"epsilon with method.init={self.init}")
        if self.update not in ("subspace", "svd", "none"):
            raise UserError("method.update", self.update, "subspace, svd or none")
        if self.preconditioner not in ("step", "basis"):
            raise UserError("method.preconditioner", self.preconditioner, "step or basis")
        if self.update == "svd" and (self.weight_epsilon is None or self.activations):
            raise UserError("method.update", self.update, f"for method=wsi only, not for {self.name}")

    @property
    def artifacts(self) -> dict[str, Any]:
        """File name -> content (JSON) of what `apply` found out besides the model."""
        return self.activations.artifacts if self.activations else {}

    def apply(self, model: nn.Module, calibration) -> nn.Module:
        linears = scope_linears(model, self.scope)
        if self.weight_epsilon is not None:
            check_weights(linears)
        states = self.activations.states(model, linears, calibration) if self.activations else {}
        epsilon = self.weight_epsilon
        factors = None if epsilon is None else self._factors(model, linears, calibration, epsilon)

        def made(name: str, linear: nn.Linear) -> LowRankLayer:
            return self._layer(name, linear, factors, states.get(name))

        replace_each(model, linears, made)
        if factors is not None:
            log_ranks(factors.sizes())
        if not self.train_rest:
            freeze_rest(model)
        return model

    def _factors(
        self, model: nn.Module, linears: Mapping[str, nn.Linear], calibration, epsilon: float
    ) -> "_SharedFactors":
        fresh = {name: linear for name, linear in linears.items() if given_factors(linear.weight) is None}
        batches = islice(calibration, self.calibration_batches)
        moments = _MOMENTS[self.init](model, fresh, batches) if fresh else {}
        ranks = {}
        if self.weight_allocation == "sensitivity" and fresh:
            of_features = {key: found for key, found in moments.items() if isinstance(found, FeatureMoments)}
            ranks = sensitivity_ranks(fresh, of_features, epsilon, self.parameter_ratio)
        generator = torch.Generator().manual_seed(self.seed) if self.init == "random" else None
        return _SharedFactors(epsilon, moments, ranks, generator)

    def _layer(
        self, name: str, linear: nn.Linear, factors: "_SharedFactors | None", state: TuckerState | None
    ) -> LowRankLayer:
        if factors is None:
            return TuckerLinear(linear.weight, linear.bias, state)
        if self.update == "svd":
            return SvdLinear(*factors.product(name, linear.weight), factors.bias(linear))
        layer = FactoredLinear(*factors.of(name, linear.weight), factors.bias(linear), state)
        layer.update, layer.preconditioner = self.update, self.preconditioner
        return layer


class _SharedFactors:
    """Factors of each weight; linears that share a weight share one pair.

    Args:
        epsilon: decides the rank of a weight that has none in `ranks`.
        moments: of the weights that start from calibration data; ranks: those given; both by the weight's id.
        generator: of factors that start at random, else None.
    """

    def __init__(
        self,
        epsilon: float,
        moments: Mapping[int, OutputMoments],
        ranks: Mapping[int, int],
        generator: torch.Generator | None = None,
    ):
        self.epsilon, self.moments, self.ranks, self.generator = epsilon, moments, ranks, generator
        self._pairs: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
        self._products: dict[int, tuple[nn.Parameter, int]] = {}
        self._biases: dict[tuple[int, int], nn.Parameter] = {}

    def of(self, name: str, weight: Tensor) -> tuple[nn.Parameter, nn.Parameter]:
        if id(weight) not in self._pairs:
            left, right = self._truncate(name, weight)
            self._pairs[id(weight)] = nn.Parameter(left), nn.Parameter(right)
        return self._pairs[id(weight)]

    def product(self, name: str, weight: Tensor) -> tuple[nn.Parameter, int]:
        """The dense `L R` and its rank."""
        if id(weight) not in self._products:
            left, right = self._start(name, weight)
            self._products[id(weight)] = nn.Parameter(left @ right), left.shape[1]
        return self._products[id(weight)]

    def sizes(self) -> list[tuple[int, int, int]]:
        """Rank, outputs and inputs of each weight that was factored."""
        pairs = [(left.shape[1], left.shape[0], right.shape[1]) for left, right in self._pairs.values()]
        return pairs + [(rank, *product.shape) for product, rank in self._products.values()]

    def bias(self, linear: nn.Linear) -> nn.Parameter | None:
        """The linear's own or, once its factors are made, one that makes up for what they lose of the mean."""
        weight, bias = linear.weight, linear.bias
        if bias is None or id(weight) not in self.moments:
            return bias
        key = id(weight), id(bias)
        if key not in self._biases:
            self._biases[key] = nn.Parameter(self.moments[id(weight)].absorbed(bias), bias.requires_grad)
        return self._biases[key]

    def _truncate(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self._start(name, weight)
        size = left.numel() + right.numel()
        if size > weight.numel():
            log.warning(
                "%s: rank %d keeps %d numbers in its factors, more than the %d of the dense weight",
                name, left.shape[1], size, weight.numel(),
            )
        return left, right

    def _start(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        if (given := given_factors(weight)) is not None:
            return given
        if self.generator is not None:
            return random_factors(weight, weight_rank(weight, self.epsilon), self.generator)
        rank = self.ranks.get(id(weight))
        if id(weight) not in self.moments:
            return truncate(weight, self.epsilon, rank)
        with decomposing(name):
            return self.moments[id(weight)].factors(rank or weight_rank(weight, self.epsilon))
