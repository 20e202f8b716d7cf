"""A small trained model in a run's folder, and the library that would build it."""

from pathlib import Path

import torch
from torch import nn

from tests.small import CLASSES, MODELS, applied
from wasi.data.spec import InputSpec
from wasi.methods.describe import describe_layers
from wasi.models import timm_models, torchvision_models
from wasi.models.attention import replace_window_attention
from wasi.models.header import ModelHeader
from wasi.models.saved import save_model

SPEC = InputSpec(16, (0.5,) * 3, (0.25,) * 3, "bilinear")
LIBRARIES = {"torchvision_vit": torchvision_models, "timm_vit": timm_models, "swin": torchvision_models}
NAMES = tuple(f"class {number}" for number in range(CLASSES))


def serve(monkeypatch, kind: str) -> None:
    """Let the library build the small model, whatever name it is asked for."""

    def create(name: str, image_size: int, num_classes: int) -> nn.Module:
        assert image_size == SPEC.image_size
        model = MODELS[kind]()
        if num_classes != CLASSES:
            owner, head = (model.heads, "head") if kind == "torchvision_vit" else (model, "head")
            setattr(owner, head, nn.Linear(getattr(owner, head).in_features, num_classes))
        return model

    monkeypatch.setattr(LIBRARIES[kind], "create", create)


def trained(kind: str, method: str, scope: str = "all") -> tuple[nn.Module, ModelHeader]:
    """With every parameter moved, as by an optimizer that keeps no factor orthonormal and no adapter zero."""
    model = replace_window_attention(applied(kind, method, scope=scope))  # as `build_model` makes it
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    library = LIBRARIES[kind].__name__.rpartition(".")[2].removesuffix("_models")
    layers = tuple(describe_layers(model, scope))
    return model.eval(), ModelHeader(library, kind, method, scope, NAMES, SPEC, layers)


def saved(folder: Path, kind: str, method: str, scope: str = "all") -> tuple[nn.Module, ModelHeader]:
    """What `trained` gives, its model in `folder` as a run leaves it."""
    model, header = trained(kind, method, scope)
    save_model(folder / "model.safetensors", model, header)
    return model, header


@torch.no_grad()
def logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.eval()(images)
