"""What a model wants to see: input size and normalisation, known before any model is built."""

from wasi.data.spec import InputSpec
from wasi.errors import UserError

# vit_micro's weights are made from Fashion-MNIST: its grey mean and deviation on three equal channels.
MICRO_SPEC = InputSpec(image_size=28, mean=(0.2860,) * 3, std=(0.3530,) * 3, interpolation="bilinear")
MICRO_PATCH = 4


def input_spec(cfg_model, image_size: int | None) -> InputSpec:
    """The weights' own input size and normalisation; `image_size` overrides the size.

    Raises UserError when the patch does not divide the size.
    """
    check_image_size(image_size or MICRO_SPEC.image_size, MICRO_PATCH, cfg_model.name)
    return InputSpec(image_size or MICRO_SPEC.image_size, MICRO_SPEC.mean, MICRO_SPEC.std, "bilinear")


def check_image_size(image_size: int, patch: int, name: str) -> None:
    if image_size < patch or image_size % patch:
        raise UserError("dataset.image_size", image_size, f"a multiple of {patch}, the patch of {name}")
