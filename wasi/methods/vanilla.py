"""Ordinary fine-tuning of the unmodified model."""

import re
from dataclasses import dataclass

from torch import nn

from wasi.methods.method import Method
from wasi.methods.scope import freeze_rest
from wasi.models.structure import linear_sites


@dataclass
class Vanilla(Method):
    """Trains all parameters or, with `train_rest=false`, those of `scope` and the head.

    Otherwise `scope` only says which layers the paper's memory accounting counts.
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
    """Make weights and biases of the linear layers `names` trainable."""
    for name, parameter in model.named_parameters():
        if re.sub(r"[._](weight|bias)$", "", name) in names:  # `fc1.weight`, and torchvision's `in_proj_weight`
            parameter.requires_grad_(True)
