"""LoRA (Hu et al., arXiv 2106.09685): dense weights frozen, a low-rank adapter beside each."""

from dataclasses import dataclass

import torch
from torch import nn

from wasi.layers.adapter import AdapterLinear
from wasi.methods.scope import freeze_rest, replace_each, scope_linears


@dataclass
class LoRA:
    """Adapters of `lora_rank` and `lora_alpha` on the linears of `scope`; the head trains, the rest by option."""

    name: str
    scope: str
    train_rest: bool
    lora_rank: int
    lora_alpha: float
    seed: int

    def apply(self, model: nn.Module, calibration) -> nn.Module:
        generator = torch.Generator().manual_seed(self.seed)

        def adapted(_: str, linear: nn.Linear) -> nn.Module:
            return AdapterLinear(linear.weight, linear.bias, self.lora_rank, self.lora_alpha, generator)

        replace_each(model, scope_linears(model, self.scope), adapted)
        if not self.train_rest:
            freeze_rest(model)
        return model
