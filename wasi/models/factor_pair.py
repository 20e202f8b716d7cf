"""A trained low-rank linear layer for inference and export, without what only training needs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FactorPair(nn.Module):
    """The linear layer `Y = (X R^T) L^T + b`, `[..., I] -> [..., O]`.

    Its parameters `L` (`O x K`), `R` (`K x I`) and, with `bias=True`, `bias` (`[O]`) are created on the meta device;
    a file's tensors are to be assigned to them.
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
