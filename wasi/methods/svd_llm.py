"""SVD-LLM (Wang et al., arXiv 2403.07378): truncation-aware whitening, then LoRA on both frozen factors."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from wasi.errors import UserError
from wasi.layers.adapter import Adapter, FactoredAdapterLinear
from wasi.linalg.rank import truncate, weight_rank
from wasi.methods.calibration import refuse_iterator, refusing_undecomposable
from wasi.methods.feature_init import feature_moments
from wasi.methods.method import Method
from wasi.methods.moments import second_moments
from wasi.methods.scope import (
    check_adapter_options,
    check_adapter_rank,
    check_weights,
    freeze_rest,
    replace_each,
    scope_linears,
)
from wasi.methods.weight_ranks import OPTION, check_allocation, log_ranks, sensitivity_ranks
from wasi.models.restart import given_factors

# Lower bound of `sqrt(Sigma)`, relative to its largest entry, so that dividing by it is safe. How a direction's scale
# is divided between the factors does not change their product.
_LEAST_ROOT = 1e-4


def whitened_factors(weight: Tensor, moment: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the rank-`K` factors `U sqrt(Sigma)` (`O x K`) and `sqrt(Sigma) V^T S^-1` (`K x I`) of a weight.

    With `moment = X^T X = S S^T` (`I x I`, up to scale) and the SVD `W S = U Sigma V^T`, the output error
    `||(W - L R) X^T||_F` is the root of the sum of squares of the discarded `Sigma`, the least possible at this rank.
    The right factor is computed as `Sigma^-1/2 U^T W`, which is equal and needs no `S^-1`.
    """
    wide = weight.detach().double()
    left, seen = truncate(wide @ stable_cholesky(moment.double()), 1.0, rank)  # U, Sigma V^T
    root = torch.linalg.vector_norm(seen, dim=1).sqrt()
    root = root.clamp_min(_LEAST_ROOT * root.max())
    return (left * root).to(weight.dtype), ((left.mT @ wide) / root[:, None]).to(weight.dtype)


def stable_cholesky(moment: Tensor) -> Tensor:
    """Return the lower Cholesky factor, with jitter on the diagonal where the matrix is not positive definite.

    The jitter is 0, else the first of 1e-12, 1e-11, ... times the mean of the diagonal that works.

    Raises:
        ValueError: the matrix is zero or not finite.
    """
    jitter = 0.0
    identity = torch.eye(moment.shape[0], dtype=moment.dtype, device=moment.device)
    scale = moment.diagonal().mean()
    while True:
        factor, info = torch.linalg.cholesky_ex(moment + jitter * scale * identity)
        if info.item() == 0:
            return factor
        if jitter > 1:
            raise ValueError("its inputs are zero or not finite")
        jitter = max(10 * jitter, 1e-12)


@dataclass
class SVDLLM(Method):
    """Replaces weights by two frozen factors, truncated in the whitened input space, with an adapter on each factor.

    Args:
        train_rest: whether the parameters outside `scope` train too (the head always does).
        weight_epsilon: share of the squared singular values of `W` that determines a layer's rank, as in WASI.
        keep_ratio: determines the rank instead, as the share of a layer's parameters: `K = keep_ratio * O I / (O + I)`.
        lora_rank, lora_alpha: of the adapters.
        calibration_batches: number of training batches whose inputs whiten the weights.
        seed: of the adapters' initialisation.
        weight_allocation, parameter_ratio: as for `SubspaceMethod` with `init=features`. `sensitivity` cannot be
            combined with `keep_ratio`.
        merge: whether inference is measured with the adapters merged into the two factors.

    Raises:
        UserError: options that are unknown or exclude each other.
    """

    appearance = {
        "svd_llm": {
            "order": 1, "colour": "#E69F00", "marker": "s",
            "about": "weights as two frozen factors by SVD-LLM (arXiv 2403.07378), with trained LoRA adapters on both",
        },
    }  # fmt: skip
    worth_tuning = {"svd_llm": {"method.lora_rank": [4, 8, 16]}}

    name: str
    scope: str
    train_rest: bool
    weight_epsilon: float
    keep_ratio: float | None
    lora_rank: int
    lora_alpha: float
    calibration_batches: int
    seed: int
    weight_allocation: str = "epsilon"
    parameter_ratio: float | None = None
    merge: bool = True

    def __post_init__(self) -> None:
        check_adapter_options(self.lora_rank, self.lora_alpha)
        check_allocation(self.weight_allocation, self.parameter_ratio)
        if self.weight_allocation == "sensitivity" and self.keep_ratio is not None:
            raise UserError(OPTION, self.weight_allocation, f"epsilon with rank.keep_ratio={self.keep_ratio}")

    def apply(self, model: nn.Module, calibration) -> nn.Module:
        refuse_iterator(calibration)
        linears = scope_linears(model, self.scope)
        check_weights(linears)
        check_adapter_rank(self.lora_rank, linears)
        ranks = self._allocated(model, linears, calibration)
        moments = second_moments(model, linears, islice(calibration, self.calibration_batches))
        generator, sizes = torch.Generator().manual_seed(self.seed), []

        def whitened(name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
            rank = ranks.get(id(weight)) or self.rank(weight)
            if name not in moments:  # never called, so there are no inputs to whiten with
                return truncate(weight, 1.0, rank)
            with refusing_undecomposable(name):
                return whitened_factors(weight, moments.pop(name), rank)

        def factored(name: str, linear: nn.Linear) -> nn.Module:
            left, right = given_factors(linear.weight) or whitened(name, linear.weight)
            sizes.append((left.shape[1], *linear.weight.shape))
            return FactoredAdapterLinear(left, right, linear.bias, self.lora_rank, self.lora_alpha, generator)

        replace_each(model, linears, factored)
        log_ranks(sizes)
        if not self.train_rest:
            freeze_rest(model)
        return model

    def step_parts(self) -> dict[str, list[tuple[object, str]]]:
        return {"factor_algebra": [(FactoredAdapterLinear, "forward"), (Adapter, "forward")]}

    def _allocated(self, model: nn.Module, linears: Mapping[str, nn.Linear], calibration) -> dict[int, int]:
        """Return the jointly allocated ranks, by the weight's id; empty if each weight's rank is its own (`rank`)."""
        if self.weight_allocation == "epsilon":
            return {}
        moments = feature_moments(model, linears, islice(calibration, self.calibration_batches))
        return sensitivity_ranks(linears, moments, self.weight_epsilon, self.parameter_ratio)

    def rank(self, weight: Tensor) -> int:
        """Return the rank of a weight (`O x I`) by `keep_ratio` or, where that is None, by `weight_epsilon`."""
        o, i = weight.shape
        if self.keep_ratio is not None:
            return max(1, int(self.keep_ratio * o * i / (o + i)))
        return weight_rank(weight, self.weight_epsilon)
