"""Ordinary fine-tuning: the library's own model, untouched."""

import re
from dataclasses import dataclass

from torch import nn

from wasi.methods.method import Method
from wasi.methods.scope import freeze_rest
from wasi.models.structure import linear_sites


@dataclass
class Vanilla(Method):
    """Everything trains. `scope` only says which layers the paper's accounting counts.

    With `train_rest=false`, what lies outside the scope is frozen, except the head.
    """

    appearance = {
        "vanilla": {
            "order": 0, "colour": "#000000", "marker": "*", "reference": True,
            "about": "the library's model, fine-tuned as it is",
        },
    }  # fmt: skip

    name: str
    scope: str
    train_rest: bool

    def apply(self, model: nn.Module, calibration) -> nn.Module:
        sites = linear_sites(model, self.scope)
        if not self.train_rest:
            freeze_rest(model)
            _unfreeze(model, {site.name for site in sites})
        return model


def _unfreeze(model: nn.Module, names: set[str]) -> None:
    for name, parameter in model.named_parameters():
        if re.sub(r"[._](weight|bias)$", "", name) in names:  # `fc1.weight`, and torchvision's `in_proj_weight`
            parameter.requires_grad_(True)
