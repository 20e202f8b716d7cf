"""LoRA (Hu et al., arXiv 2106.09685): dense weights frozen, a low-rank adapter beside each."""

from dataclasses import dataclass

import torch
from torch import nn

from wasi.layers.adapter import Adapter, AdapterLinear
from wasi.methods.method import Method
from wasi.methods.scope import freeze_rest, once_each, replace_layers, scope_linears


@dataclass
class LoRA(Method):
    """Adapters of `lora_rank` and `lora_alpha` on the linears of `scope`; the head trains, the rest by option.

    Merged for inference, the linears are ordinary dense ones.
    """

    appearance = {"lora": {"order": 5, "colour": "#D55E00", "marker": "D"}}

    name: str
    scope: str
    train_rest: bool
    lora_rank: int
    lora_alpha: float
    seed: int
    merge: bool = True

    def apply(self, model: nn.Module, calibration) -> nn.Module:
        generator = torch.Generator().manual_seed(self.seed)

        def adapted(_: str, linear: nn.Linear) -> nn.Module:
            return AdapterLinear(linear.weight, linear.bias, self.lora_rank, self.lora_alpha, generator)

        replace_layers(model, once_each(scope_linears(model, self.scope), adapted))
        if not self.train_rest:
            freeze_rest(model)
        return model

    def step_parts(self) -> dict[str, list[tuple[object, str]]]:
        return {"factor_algebra": [(Adapter, "forward")]}
