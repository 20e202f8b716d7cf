"""The project's own model `vit_micro`; see `wasi.models.input_spec.library_of` for the functions."""

from torch import nn

from wasi.data.spec import InputSpec
from wasi.deferred import import_light
from wasi.errors import UserError
from wasi.models import micro
from wasi.models.input_spec import check_image_size
from wasi.models.loading import State, load_file

# The weights were trained on Fashion-MNIST: mean and deviation of its grey values, on three equal channels.
_MEAN, _STD = (0.2860,) * 3, (0.3530,) * 3


def input_spec(name: str, image_size: int | None) -> InputSpec:
    """Return size, normalisation and interpolation. Raises UserError for another name, or a size it cannot take."""
    if name != "vit_micro":
        raise UserError("model.name", name, "vit_micro (with model.library=wasi)")
    size = image_size or micro.IMAGE_SIZE
    check_image_size(name, size)
    return InputSpec(size, _MEAN, _STD, "bilinear")


def create(name: str, image_size: int, num_classes: int) -> nn.Module:
    """Return the model with random weights."""
    return micro.vit_micro(image_size, num_classes)


def create_pretrained(name: str, image_size: int, num_classes: int) -> nn.Module:
    """Return the model with the shipped weights and a new head. Raises UserError if their file is missing."""
    if not micro.SHIPPED_WEIGHTS.is_file():
        allowed = f"random | a path of this model's weights; the file that ships with {name} is missing"
        raise UserError("model.weights", "pretrained", allowed)
    model = create(name, image_size, num_classes)
    load_file(model, micro.SHIPPED_WEIGHTS, head_prefixes(model), adapt)
    return model


def adapt(state: State, model: nn.Module) -> State:
    """Resample the position embedding to the model's image size."""
    return import_light("timm.models.vision_transformer").checkpoint_filter_fn(state, model)


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the prefix of the classifier's keys in the state dict."""
    return ("head.",)
