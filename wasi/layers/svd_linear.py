"""The linear layer of the paper's baseline for WSI: a dense weight, truncated anew by an SVD after every step."""

import torch
from torch import Tensor, nn

from wasi.layers.base import LowRankLayer
from wasi.layers.graph_only import linear


class SvdLinear(LowRankLayer):
    """`Y = X W^T + b` with a dense `W` (`O x I`) that has rank `K` whenever a step begins.

    An optimizer steps on `W` with its dense gradient, and `retract_` takes the result to the nearest matrix of
    rank `K` (Eckart-Young). The rank stays what the threshold gave at the start, so that a comparison with WSI's
    subspace iteration is one at equal rank.

    Args:
        weight: of rank `rank`; bias: shape `[O]` or None.
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
        """Truncate the weight to its rank."""
        u, s, vh = torch.linalg.svd(self.weight, full_matrices=False)
        self.weight.copy_((u[:, : self.rank] * s[: self.rank]) @ vh[: self.rank])
