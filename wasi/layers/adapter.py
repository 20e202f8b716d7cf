"""LoRA adapters (Hu et al., arXiv 2106.09685) on a frozen dense weight, or on both frozen factors of a weight."""

from collections.abc import Sequence
from math import prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasi.layers.base import LowRankLayer
from wasi.layers.factored import FactoredLinear
from wasi.layers.skipped_output import linear
from wasi.linalg.thin import thin_matmul


class Adapter(nn.Module):
    """The low-rank term `scale * X A^T B^T` of a LoRA layer, `scale = alpha / rank`.

    `A` (`rank x I`) starts at random; `B` (`O x rank`) starts at zero, so the term does, too.

    Args:
        weight: `O x I`, the weight beside the adapter; only its shape, type and device are used.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator):
        super().__init__()
        out_features, in_features = weight.shape
        bound = 1 / sqrt(in_features)  # the LoRA authors' initialisation of A: Kaiming uniform with a = sqrt(5)
        start = torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator)
        self.A = nn.Parameter(start.to(weight))
        self.B = nn.Parameter(weight.new_zeros(out_features, rank))
        self.scale = alpha / rank

    def forward(self, x: Tensor, output_needed: bool = True) -> Tensor:
        # `wasi.linalg.thin` is not used: with it, forward and backward took 1.2 to 1.4 times as long at ranks near 8.
        return linear(F.linear(x, self.A) * self.scale, self.B, None, output_needed)

    def merged_weight(self, weight: Tensor) -> Tensor:
        """Return `weight + scale * B A` (`O x I`) as a new tensor."""
        return weight + self.scale * self.B @ self.A


class AdapterLinear(LowRankLayer):
    """LoRA layer `Y = X W^T + b + scale * X A^T B^T` with a frozen dense `W`.

    Args:
        weight: `W`, `O x I`; it is frozen here.
        bias: `[O]` or None; its `requires_grad` is left unchanged.
        rank, alpha: of the `Adapter`.
    """

    trains_bias = False
    output_needed = True
    bias: nn.Parameter | None

    def __init__(
        self,
        weight: Tensor,
        bias: nn.Parameter | None,
        rank: int,
        alpha: float,
        generator: torch.Generator,
    ):
        super().__init__(weight.shape[1], weight.shape[0])
        self.weight = weight.requires_grad_(False)
        self.register_parameter("bias", bias)
        self.adapter = Adapter(weight, rank, alpha, generator)

    def forward(self, x: Tensor) -> Tensor:
        needed = self.output_needed
        return linear(x, self.weight, self.bias, needed) + self.adapter(x, needed)

    def weight_factors(self) -> tuple[Tensor, ...]:
        return (self.adapter.merged_weight(self.weight),)

    def stored_elements(self, shape: Sequence[int]) -> int:
        return prod(shape) + prod(shape[:-1]) * self.adapter.A.shape[0]

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return an `nn.Linear` with the merged weight `W + scale * B A`: new tensors, none of them trainable."""
        with torch.device("meta"):
            linear = nn.Linear(self.in_features, self.out_features, bias=False)
        linear.weight = nn.Parameter(self.adapter.merged_weight(self.weight), requires_grad=False)
        linear.register_parameter("bias", _frozen_copy(self.bias))
        return linear.train(self.training)


class FactoredAdapterLinear(LowRankLayer):
    """`Y = (X (R + s B_R A_R)^T) (L + s B_L A_L)^T + b`: frozen factors, each with an adapter of scale `s` (SVD-LLM).

    Args:
        left: `L`, `O x K`, and right: `R`, `K x I`; both are frozen. bias, rank, alpha: as for `AdapterLinear`.
    """

    trains_bias = False
    output_needed = True
    bias: nn.Parameter | None

    def __init__(
        self,
        left: Tensor,
        right: Tensor,
        bias: nn.Parameter | None,
        rank: int,
        alpha: float,
        generator: torch.Generator,
    ):
        super().__init__(right.shape[1], left.shape[0])
        self.L = nn.Parameter(left, requires_grad=False)
        self.R = nn.Parameter(right, requires_grad=False)
        self.register_parameter("bias", bias)
        self.adapter_R = Adapter(self.R, rank, alpha, generator)
        self.adapter_L = Adapter(self.L, rank, alpha, generator)

    @property
    def weight_rank(self) -> int:
        return self.L.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        z = thin_matmul(rows, self.R) + self.adapter_R(rows)
        needed = self.output_needed
        y = linear(z, self.L, self.bias, needed) + self.adapter_L(z, needed)
        return y.view(*x.shape[:-1], self.out_features)

    def weight_factors(self) -> tuple[Tensor, ...]:
        return self.adapter_L.merged_weight(self.L), self.adapter_R.merged_weight(self.R)

    def stored_elements(self, shape: Sequence[int]) -> int:
        rank = self.adapter_R.A.shape[0]
        return prod(shape) + prod(shape[:-1]) * (self.weight_rank + 2 * rank)

    @torch.no_grad()
    def merged(self) -> FactoredLinear:
        """Return a `FactoredLinear` of `L + s B_L A_L` and `R + s B_R A_R`: new tensors, none of them trainable."""
        left, right = (nn.Parameter(factor, requires_grad=False) for factor in self.weight_factors())
        return FactoredLinear(left, right, _frozen_copy(self.bias)).train(self.training)


def _frozen_copy(bias: nn.Parameter | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
