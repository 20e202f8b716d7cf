"""Ordinary fine-tuning of the unmodified model."""

from dataclasses import dataclass

from torch import nn

from wasi.methods.method import Method
from wasi.methods.scope import freeze_rest
from wasi.models.structure import linear_sites, site_parameters


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
            for site in sites:
                for parameter in site_parameters(model, site).values():
                    parameter.requires_grad_(True)
        return model
