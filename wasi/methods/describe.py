"""The entry `layers` of result.json: type, sizes and ranks of each linear layer in a method's scope."""

from torch import nn

from wasi.layers.base import LowRankLayer
from wasi.models.structure import linear_sites


def describe_layers(model: nn.Module, scope: str) -> list[dict]:
    """Return one entry per linear layer of `scope`: name, type, sizes, and the ranks of what is not dense.

    `copies` is the number of times that the paper's memory accounting counts the layer's input, 3 for packed query,
    key and value. `weight_rank` and `activation_ranks` are absent where weight or saved input is dense.
    """
    low_rank = {name: m for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, LowRankLayer)}
    entries = []
    for site in linear_sites(model, scope):
        layer = low_rank.get(site.name)
        entry = {
            "name": site.name,
            "type": type(layer).__name__ if layer is not None else "Linear",
            "in_features": site.in_features,
            "out_features": site.out_features,
            "copies": site.copies,
        }
        if layer is not None and layer.weight_rank is not None:
            entry["weight_rank"] = layer.weight_rank
        if layer is not None and layer.activation_ranks is not None:
            entry["activation_ranks"] = list(layer.activation_ranks)
        entries.append(entry)
    return entries


def rank_history(layers: list[dict]) -> dict[str, float]:
    """Return the ranks in `describe_layers`' result as metrics `rank/LAYER/weight` and `rank/LAYER/activation_MODE`.

    `MODE` is counted from 1, the batch mode, as in `monitor.csv`.
    """
    values = {}
    for layer in layers:
        if "weight_rank" in layer:
            values[f"rank/{layer['name']}/weight"] = layer["weight_rank"]
        for mode, rank in enumerate(layer.get("activation_ranks", ()), 1):
            values[f"rank/{layer['name']}/activation_{mode}"] = rank
    return values
