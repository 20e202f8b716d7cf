"""LoRA (Hu et al., arXiv 2106.09685): dense weights frozen, a low-rank adapter beside each."""

from dataclasses import dataclass

import torch
from torch import nn

from wasi.errors import UserError
from wasi.layers.adapter import Adapter, AdapterLinear
from wasi.layers.quantized import KINDS, QuantizedAdapterLinear
from wasi.methods.method import Method
from wasi.methods.scope import (
    check_adapter_options,
    check_adapter_rank,
    freeze_rest,
    replace_each,
    scope_linears,
)


@dataclass
class LoRA(Method):
    """Adds adapters to the linear layers of `scope` and freezes their weights; the head trains.

    Merged for inference, the layers are ordinary dense ones.

    Args:
        train_rest: whether the parameters outside `scope` train too.
        seed: of the adapters' initialisation.
        merge: whether inference is measured with the adapters merged into the weights.
        base: `int8` or `nf4` to store the frozen weights in 8 or 4 bits (QLoRA), in which case adapters are never
            merged; None leaves them as they are.
    """

    appearance = {
        "lora": {
            "order": 5, "colour": "#D55E00", "marker": "D", "rival": True, "title": "LoRA",
            "about": "frozen weights, and beside each a trained product of two thin matrices (arXiv 2106.09685)",
        },
    }  # fmt: skip
    worth_tuning = {"lora": {"method.lora_rank": [4, 8, 16]}}

    name: str
    scope: str
    train_rest: bool
    lora_rank: int
    lora_alpha: float
    seed: int
    merge: bool = True
    base: str | None = None

    def __post_init__(self) -> None:
        check_adapter_options(self.lora_rank, self.lora_alpha)
        if self.base not in (None, *KINDS):
            raise UserError("method.base", self.base, f"{', '.join(KINDS)} or null")

    def apply(self, model: nn.Module, calibration) -> nn.Module:
        linears = scope_linears(model, self.scope)
        check_adapter_rank(self.lora_rank, linears)
        generator = torch.Generator().manual_seed(self.seed)

        def adapted(_: str, linear: nn.Linear) -> nn.Module:
            given = linear.weight, linear.bias, self.lora_rank, self.lora_alpha, generator
            return AdapterLinear(*given) if self.base is None else QuantizedAdapterLinear(*given, self.base)

        replace_each(model, linears, adapted)
        if not self.train_rest:
            freeze_rest(model)
        return model

    def step_parts(self) -> dict[str, list[tuple[object, str]]]:
        return {"factor_algebra": [(Adapter, "forward")]}
