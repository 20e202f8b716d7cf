"""The linear layer of the paper's baseline for WSI: a dense weight that an SVD truncates after every step."""

import torch
from torch import Tensor, nn

from wasi.layers.base import LowRankLayer
from wasi.layers.skipped_output import linear


class SvdLinear(LowRankLayer):
    """`Y = X W^T + b` with a dense `W` (`O x I`) that has rank `K` at the start of every step.

    The optimizer steps on `W` with its dense gradient, and `retract_` replaces the result by the nearest matrix of
    rank `K` (Eckart-Young). `K` is constant, so that the comparison with WSI's subspace iteration is at equal rank.

    Args:
        weight: `W`, already of rank `rank`; rank: `K`; bias: `[O]` or None.
    """

    output_needed = True
    bias: nn.Parameter | None

    def __init__(self, weight: nn.Parameter, rank: int, bias: nn.Parameter | None):
        super().__init__(weight.shape[1], weight.shape[0])
        self.weight, self.rank = weight, rank
        self.register_parameter("bias", bias)

    @property
    def weight_rank(self) -> int:
        return self.rank

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, self.output_needed)

    @torch.no_grad()
    def retract_(self) -> None:
        """Truncate `W` to rank `K` by a dense SVD, in place: `W <- U_K S_K V_K^T`."""
        u, s, vh = torch.linalg.svd(self.weight, full_matrices=False)
        self.weight.copy_((u[:, : self.rank] * s[: self.rank]) @ vh[: self.rank])
