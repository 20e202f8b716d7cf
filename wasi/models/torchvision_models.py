"""ViT and Swin models of torchvision; see `wasi.models.input_spec.library_of` for the functions."""

import sys
from typing import Any

from torch import nn

from wasi.data.spec import InputSpec
from wasi.deferred import import_light
from wasi.errors import UserError
from wasi.models.download import download, is_in_torchs_cache, require_reachable
from wasi.models.input_spec import check_image_size
from wasi.models.loading import State, load_state

models = import_light("torchvision.models")

NAMES = (
    *("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32"),
    *("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b"),
)
_SWIN_PATCH = 4


def input_spec(name: str, image_size: int | None) -> InputSpec:
    """Return size, normalisation and interpolation of the weights' evaluation transform.

    Raises:
        UserError: the name is unknown, or the patch size does not divide `image_size`.
    """
    if name not in NAMES:
        raise UserError("model.name", name, " | ".join(NAMES) + " (or model=timm with a timm name)")
    transform = _weights(name).transforms()
    size = image_size or transform.crop_size[0]
    check_image_size(name, size, int(name[-2:]) if name.startswith("vit") else _SWIN_PATCH)
    return InputSpec(size, tuple(transform.mean), tuple(transform.std), transform.interpolation.value)


def create(name: str, image_size: int, num_classes: int) -> nn.Module:
    """Return the model with random weights. The head is not zero, as it would pass no gradient to the blocks."""
    size = {"image_size": image_size} if name.startswith("vit") else {}
    model = models.get_model(name, weights=None, num_classes=num_classes, **size)
    head = model.heads.head if name.startswith("vit") else model.head
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return model


def create_pretrained(name: str, image_size: int, num_classes: int) -> nn.Module:
    """Return the model with the IMAGENET1K_V1 weights and a new head.

    Raises:
        UserError: the weights are neither in torch's cache nor can be downloaded.
    """
    weights = _weights(name)
    with download(name, weights.url):
        if not is_in_torchs_cache(weights.url):
            require_reachable(weights.url)
        state = weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True)
    model = create(name, image_size, num_classes)
    heads = head_prefixes(model)
    state = {key: value for key, value in state.items() if not key.startswith(heads)}
    load_state(model, state, "pretrained", heads, adapt)
    return model


def adapt(state: State, model: nn.Module) -> State:
    """Resample a ViT's position embedding to the model's image size, and rename its MLP's layers.

    torchvision's published files still have the names `mlp.linear_1` and `mlp.linear_2` of its first version.
    """
    key = "encoder.pos_embedding"
    if not isinstance(model, models.VisionTransformer) or key not in state:
        return state
    state = {n.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3."): t for n, t in state.items()}
    state[key] = state[key].float()
    return models.vision_transformer.interpolate_embeddings(model.image_size, model.patch_size, state)


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the classifier's keys in the state dict."""
    return ("heads.",) if isinstance(model, models.VisionTransformer) else ("head.",)


def _weights(name: str) -> Any:
    return models.get_model_weights(name)["IMAGENET1K_V1"]
