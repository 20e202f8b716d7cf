"""A trained low-rank linear layer as plain torch: what prediction and export need, and nothing of training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FactorPair(nn.Module):
    """`Y = (X R^T) L^T + b`, `[..., I] -> [..., O]`.

    Its parameters, `L` (`O x K`), `R` (`K x I`) and `bias` (`[O]`, where there is one), are left on `meta`, for a
    file's tensors to take their place.
    """

    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.L = nn.Parameter(torch.empty(out_features, rank, device="meta"))
        self.R = nn.Parameter(torch.empty(rank, in_features, device="meta"))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features, device="meta")) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.R), self.L, self.bias)
