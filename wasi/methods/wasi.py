"""WASI (arXiv 2510.09160) and its two parts: factored weights (WSI), low-rank saved inputs (ASI), or both."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from wasi.config.validate import check_option
from wasi.errors import UserError
from wasi.layers.activation import TuckerState
from wasi.layers.base import LowRankLayer
from wasi.layers.factored import FactoredLinear
from wasi.layers.svd_linear import SvdLinear
from wasi.layers.tucker_linear import TuckerLinear
from wasi.linalg.rank import truncate, weight_rank
from wasi.methods.calibration import refuse_iterator, refusing_undecomposable
from wasi.methods.feature_init import FeatureMoments, feature_moments
from wasi.methods.method import Method
from wasi.methods.output_init import OutputMoments, output_moments
from wasi.methods.random_init import random_factors
from wasi.methods.scope import check_weights, freeze_rest, replace_each, scope_linears
from wasi.methods.selection import ActivationRanks
from wasi.methods.weight_ranks import OPTION, check_allocation, log_ranks, sensitivity_ranks
from wasi.models.restart import given_factors

log = logging.getLogger(__name__)

# method.init -> function that collects moments on calibration data, by the weight's id; empty where none are needed.
_MOMENTS: dict[str, Callable[..., Mapping[int, OutputMoments]]] = {
    "svd": lambda *_: {}, "random": lambda *_: {}, "output": output_moments, "features": feature_moments,
}  # fmt: skip


@dataclass
class SubspaceMethod(Method):
    """Replaces the linear layers of `scope` by layers with factored weights, low-rank saved inputs, or both.

    Args:
        train_rest: whether the parameters outside `scope` train too (the head always does).
        weight_epsilon: share of a weight's squared singular values that its factors keep; None leaves weights dense.
        activations: how the Tucker ranks of saved inputs are chosen; None saves inputs uncompressed.
        update: how weights are trained. `subspace`: SGD without momentum, and SWAN, step on the product `L R` of layers
            whose feature basis has at most as many columns as `L`. In other layers (all of WSI) SGD steps along the
            tangent space of the matrices of that rank, and SWAN whitens the two factors as any matrices. Other
            optimizers step on the factors, with weight decay on `R` alone. `none`: any optimizer steps on the factors
            as ordinary parameters. `svd`, the paper's baseline for WSI: the optimizer steps on the dense product, which
            an SVD truncates to the same rank after each step.
        preconditioner: when a subspace step recomputes `(R R^T)^-1 R U`: in every `step`, or, which is faster, only
            when the feature `basis` is updated (see docs/method.md).
        init: how factors are initialised, at the same rank. `svd`, as in the paper: the truncated SVD of the weight.
            `output` and `features`: the subspace that matters most, on calibration data, for the layer's outputs or
            for the model's final features; the bias absorbs the mean output error (with `features`, tokens count by
            their effect on the features). `random`, a control: random factors with the weight's Frobenius norm.
        calibration_batches: number of training batches used by `init=output` and `features`.
        seed: of `init=random`.
        weight_allocation: `epsilon`: each weight's rank follows from `weight_epsilon`. `sensitivity` (with
            `init=features`): the same number of parameters in total, but at the ranks that change the model's final
            features least, with no factors larger than their dense weight.
        parameter_ratio: with `sensitivity`, the number of parameters of all factors as a share of the dense weights',
            in place of `weight_epsilon`.

    Raises:
        UserError: options that are unknown or exclude each other.
    """

    appearance = {
        "wasi": {
            "order": 2, "colour": "#0072B2", "marker": "o", "subject": True, "title": "WASI",
            "about": "weights held as two thin factors, saved inputs as small Tucker tensors; subspace iteration "
            "updates the tensors' bases and, with SGD or Swan, the weights (arXiv 2510.09160)",
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
            raise UserError("method.init", self.init, "svd where weights stay dense, as with method=asi")
        if self.weight_epsilon is not None:
            check_option("rank.weight_epsilon", self.weight_epsilon)
        check_option("rank.calibration_batches", self.calibration_batches)
        check_allocation(self.weight_allocation, self.parameter_ratio)
        if self.weight_allocation == "sensitivity" and self.init != "features":
            raise UserError(OPTION, self.weight_allocation, f"epsilon with method.init={self.init}")
        if self.update not in ("subspace", "svd", "none"):
            raise UserError("method.update", self.update, "subspace, svd or none")
        if self.preconditioner not in ("step", "basis"):
            raise UserError("method.preconditioner", self.preconditioner, "step or basis")
        if self.update == "svd" and (self.weight_epsilon is None or self.activations):
            raise UserError("method.update", self.update, f"for method=wsi only, not for {self.name}")

    def apply(self, model: nn.Module, calibration) -> nn.Module:
        refuse_iterator(calibration)
        linears = scope_linears(model, self.scope)
        if self.weight_epsilon is not None:
            check_weights(linears)
        states = {}
        if self.activations:
            states = self.activations.states(model, linears, calibration)
            self.artifacts = self.activations.artifacts
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
        """Prepare the factors of all weights; those of a run's saved model (`given_factors`) are used as they are."""
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
        left, right = factors.of(name, linear.weight)
        return FactoredLinear(left, right, factors.bias(linear), state, self.update, self.preconditioner)


class _SharedFactors:
    """Makes the factors of each weight; linear layers that share a weight share one pair.

    Args:
        epsilon: determines the rank of a weight that has none in `ranks`.
        moments: by the weight's id, of the weights that are initialised from calibration data.
        ranks: by the weight's id, those that were allocated jointly.
        generator: for random factors, else None.
    """

    def __init__(
        self,
        epsilon: float,
        moments: Mapping[int, OutputMoments],
        ranks: Mapping[int, int],
        generator: torch.Generator | None,
    ):
        self.epsilon, self.moments, self.ranks, self.generator = epsilon, moments, ranks, generator
        self._pairs: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
        self._products: dict[int, tuple[nn.Parameter, int]] = {}
        self._biases: dict[tuple[int, int], nn.Parameter] = {}

    def of(self, name: str, weight: Tensor) -> tuple[nn.Parameter, nn.Parameter]:
        """Return `L` and `R` of the weight of layer `name`."""
        if id(weight) not in self._pairs:
            left, right = self._truncate(name, weight)
            trains = weight.requires_grad
            self._pairs[id(weight)] = nn.Parameter(left, trains), nn.Parameter(right, trains)
        return self._pairs[id(weight)]

    def product(self, name: str, weight: Tensor) -> tuple[nn.Parameter, int]:
        """Return the dense product `L R` and its rank, for `update=svd`."""
        if id(weight) not in self._products:
            left, right = self._start(name, weight)
            self._products[id(weight)] = nn.Parameter(left @ right, weight.requires_grad), left.shape[1]
        return self._products[id(weight)]

    def sizes(self) -> list[tuple[int, int, int]]:
        """Return (rank, out_features, in_features) of each factored weight."""
        pairs = [(left.shape[1], left.shape[0], right.shape[1]) for left, right in self._pairs.values()]
        return pairs + [(rank, *product.shape) for product, rank in self._products.values()]

    def bias(self, linear: nn.Linear) -> nn.Parameter | None:
        """Return the layer's own bias or, for factors from calibration data, one that absorbs their mean output error.

        The factors must have been made before.
        """
        weight, bias = linear.weight, linear.bias
        if bias is None or id(weight) not in self.moments:
            return bias
        key = id(weight), id(bias)
        if key not in self._biases:
            self._biases[key] = nn.Parameter(self.moments[id(weight)].absorbed(bias), bias.requires_grad)
        return self._biases[key]

    def _truncate(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the initial factors, with a warning where they have more parameters than the dense weight."""
        left, right = self._start(name, weight)
        size = left.numel() + right.numel()
        if size > weight.numel():
            log.warning(
                "%s: rank %d keeps %d numbers in its factors, more than the %d of the dense weight",
                name, left.shape[1], size, weight.numel(),
            )
        return left, right

    def _start(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the initial `L` and `R`: of a saved model, random, from calibration data, or the truncated SVD."""
        if (given := given_factors(weight)) is not None:
            return given
        if self.generator is not None:
            return random_factors(weight, weight_rank(weight, self.epsilon), self.generator)
        rank = self.ranks.get(id(weight))
        if id(weight) not in self.moments:
            return truncate(weight, self.epsilon, rank)
        with refusing_undecomposable(name):
            return self.moments[id(weight)].factors(rank or weight_rank(weight, self.epsilon))
