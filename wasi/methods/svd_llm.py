"""SVD-LLM (Wang et al., arXiv 2403.07378): truncation-aware whitening, then LoRA on both frozen factors."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from wasi.errors import UserError
from wasi.layers.adapter import Adapter, FactoredAdapterLinear
from wasi.linalg.rank import truncate, weight_rank
from wasi.methods.calibration import decomposing
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

# Of the square roots of singular values, relative to the largest; how a direction's scale is divided between the
# two factors does not change their product.
_LEAST_ROOT = 1e-4


def whitened_factors(weight: Tensor, moment: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Rank-`K` factors `U sqrt(Sigma)` (`O x K`) and `sqrt(Sigma) V^T S^-1` (`K x I`) of a weight.

    `moment = X^T X = S S^T` (`I x I`, up to scale) and `W S = U Sigma V^T`: the output error
    `||(W - L R) X^T||_F` is the root of the sum of the squares of the discarded `Sigma`, the least possible.
    The right factor is computed as the equal `Sigma^-1/2 U^T W`, without `S^-1`.
    """
    wide = weight.detach().double()
    left, seen = truncate(wide @ stable_cholesky(moment.double()), 1.0, rank)  # U, Sigma V^T
    root = torch.linalg.vector_norm(seen, dim=1).sqrt()
    root = root.clamp_min(_LEAST_ROOT * root.max())
    return (left * root).to(weight.dtype), ((left.mT @ wide) / root[:, None]).to(weight.dtype)


def stable_cholesky(moment: Tensor) -> Tensor:
    """Lower Cholesky factor, with the least jitter (1e-12 of the mean diagonal, then tenfold) that works.

    Raises ValueError for a matrix that is zero or not finite.
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
    """Factors whitened by the calibration inputs, frozen, with trainable adapters on both.

    Args:
        weight_epsilon: each layer's rank is the one WASI has at this threshold, unless `keep_ratio` is given.
        keep_ratio: share of a layer's parameters kept, `K = keep_ratio * O I / (O + I)`.
        weight_allocation, parameter_ratio: ranks are those of WASI with `init=features`; `sensitivity` leaves no
            room for `keep_ratio`.
        lora_rank, lora_alpha: of the adapters.
        calibration_batches: training batches whose inputs whiten the weights.
        seed: of the adapters' start.
        merge: into the two factors, for inference.
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
        linears = scope_linears(model, self.scope)
        check_weights(linears)
        check_adapter_rank(self.lora_rank, linears)
        ranks = self._allocated(model, linears, calibration)
        moments = second_moments(model, linears, islice(calibration, self.calibration_batches))
        generator, sizes = torch.Generator().manual_seed(self.seed), []

        def whitened(name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
            rank = ranks.get(id(weight)) or self.rank(weight)
            if name not in moments:  # never called, so no input to whiten by
                return truncate(weight, 1.0, rank)
            with decomposing(name):
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
        """Rank of a weight by its id; none where each weight has its own (`rank`)."""
        if self.weight_allocation == "epsilon":
            return {}
        moments = feature_moments(model, linears, islice(calibration, self.calibration_batches))
        return sensitivity_ranks(linears, moments, self.weight_epsilon, self.parameter_ratio)

    def rank(self, weight: Tensor) -> int:
        """Rank for a weight `O x I`."""
        o, i = weight.shape
        if self.keep_ratio is not None:
            return max(1, int(self.keep_ratio * o * i / (o + i)))
        return weight_rank(weight, self.weight_epsilon)
