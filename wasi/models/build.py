"""From configuration to a network with weights and a fresh head."""

from torch import nn

from wasi.data.spec import InputSpec
from wasi.errors import UserError
from wasi.models import micro, weights
from wasi.models.rng import seeded


def build_model(cfg_model, num_classes: int, spec: InputSpec, seed: int) -> nn.Module:
    """The network of `cfg_model` for `num_classes`, in float32; the global generator is left alone."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    with seeded(seed):
        model = micro.vit_micro(spec.image_size, num_classes)
    source = str(cfg_model.weights)
    if source == "pretrained":
        if not micro.SHIPPED_WEIGHTS.is_file():
            raise UserError("model.weights", source, "random or a path; vit_micro's shipped file is missing")
        source = micro.SHIPPED_WEIGHTS
    if source != "random":
        weights.load_file(model, source, "head", checkpoint_filter_fn)
    return model
