"""A linear layer with an adapter of Hugging Face's peft, wrapped as a `LowRankLayer`."""

import copy
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from wasi.layers.base import LowRankLayer


class PeftLinear(LowRankLayer):
    """`Y = layer(X)` for a peft tuner layer around an `nn.Linear`, with one adapter.

    Args:
        layer: the tuner layer of peft; its dense weight, the parameter `base_layer.weight`, is frozen.
        rank: elements per token that the adapter saves for the backward pass, in addition to the input.
    """

    trains_bias = False

    layer: Any  # peft's classes have no common type

    def __init__(self, layer: Any, rank: int = 0):
        super().__init__(layer.in_features, layer.out_features)
        self.layer, self._rank = layer, rank

    @property
    def bias(self) -> Tensor | None:
        """The bias with the adapter merged; IA3 scales the bias, too."""
        return self.merged().bias

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(0, -2)).unflatten(0, x.shape[:-1])  # some tuners accept only 2-D inputs

    def weight_factors(self) -> tuple[Tensor, ...]:
        return (self.merged().weight,)

    def stored_elements(self, shape: Sequence[int]) -> int:
        return prod(shape) + prod(shape[:-1]) * self._rank

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return an `nn.Linear` with the adapter merged by peft: a copy, none of whose parameters is trainable."""
        layer = copy.deepcopy(self.layer)
        layer.merge()
        return layer.get_base_layer().requires_grad_(False).train(self.training)
