"""SVD-LLM (Wang et al., arXiv 2403.07378): truncation-aware whitening, then LoRA on both frozen factors."""

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from wasi.layers.adapter import Adapter, FactoredAdapterLinear
from wasi.linalg.rank import weight_rank
from wasi.methods.calibration import decomposing, second_moments
from wasi.methods.method import Method
from wasi.methods.scope import check_weights, freeze_rest, once_each, replace_layers, scope_linears


def whitened_factors(weight: Tensor, moment: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Rank-`K` factors `U sqrt(Sigma)` (`O x K`) and `sqrt(Sigma) V^T S^-1` (`K x I`) of a weight.

    `moment = X^T X = S S^T` (`I x I`, up to scale) and `W S = U Sigma V^T`: the output error
    `||(W - L R) X^T||_F` is the root of the sum of the squares of the discarded `Sigma`, the least possible.
    """
    s = stable_cholesky(moment.double())
    u, sigma, vh = torch.linalg.svd(weight.detach().double() @ s, full_matrices=False)
    root = sigma[:rank].sqrt()
    right = torch.linalg.solve_triangular(s, root[:, None] * vh[:rank], upper=False, left=False)
    return (u[:, :rank] * root).to(weight.dtype), right.to(weight.dtype)


def stable_cholesky(moment: Tensor) -> Tensor:
    """Lower Cholesky factor, with the least jitter (1e-12 of the mean diagonal, then tenfold) that works."""
    jitter = 0.0
    identity = torch.eye(moment.shape[0], dtype=moment.dtype, device=moment.device)
    scale = moment.diagonal().mean()
    while True:
        factor, info = torch.linalg.cholesky_ex(moment + jitter * scale * identity)
        if info.item() == 0:
            return factor
        if jitter > 1:
            raise ValueError("the calibration inputs are not finite")
        jitter = max(10 * jitter, 1e-12)


@dataclass
class SVDLLM(Method):
    """Factors whitened by the calibration inputs, frozen, with trainable adapters on both.

    Args:
        weight_epsilon: each layer's rank is the one WASI has at this threshold, unless `keep_ratio` is given.
        keep_ratio: share of a layer's parameters kept, `K = keep_ratio * O I / (O + I)`.
        lora_rank, lora_alpha: of the adapters.
        calibration_batches: training batches whose inputs whiten the weights.
        seed: of the adapters' start.
        merge: into the two factors, for inference.
    """

    appearance = {"svd_llm": {"order": 1, "colour": "#E69F00", "marker": "s"}}

    name: str
    scope: str
    train_rest: bool
    weight_epsilon: float
    keep_ratio: float | None
    lora_rank: int
    lora_alpha: float
    calibration_batches: int
    seed: int
    merge: bool = True

    def apply(self, model: nn.Module, calibration) -> nn.Module:
        linears = scope_linears(model, self.scope)
        check_weights(linears)
        moments = second_moments(model, linears, islice(calibration, self.calibration_batches))
        generator = torch.Generator().manual_seed(self.seed)

        def factored(name: str, linear: nn.Linear) -> nn.Module:
            with decomposing(name):
                left, right = whitened_factors(linear.weight, moments.pop(name), self.rank(linear.weight))
            return FactoredAdapterLinear(left, right, linear.bias, self.lora_rank, self.lora_alpha, generator)

        replace_layers(model, once_each(linears, factored))
        if not self.train_rest:
            freeze_rest(model)
        return model

    def step_parts(self) -> dict[str, list[tuple[object, str]]]:
        return {"factor_algebra": [(FactoredAdapterLinear, "forward"), (Adapter, "forward")]}

    def rank(self, weight: Tensor) -> int:
        """Rank for a weight `O x I`."""
        o, i = weight.shape
        if self.keep_ratio is not None:
            return max(1, int(self.keep_ratio * o * i / (o + i)))
        return weight_rank(weight, self.weight_epsilon)
