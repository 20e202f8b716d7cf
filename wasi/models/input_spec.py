"""What a model wants to see: input size and normalisation, and which library knows it. No torch at import."""

import importlib
from dataclasses import replace
from types import ModuleType

from omegaconf import MissingMandatoryValue

from wasi.data.spec import InputSpec
from wasi.errors import UserError
from wasi.models.header import ModelHeader
from wasi.models.weights_file import saved_header

# Known without importing a library, so that a wrong image size is told at once.
PATCHES = {
    "vit_micro": 4,
    "vit_b_16": 16,
    "vit_b_32": 32,
    "vit_l_16": 16,
    "vit_l_32": 32,
    "swin_t": 4,
    "swin_s": 4,
    "swin_b": 4,
    "dinov2_vits14": 14,
    "deit_tiny_patch16_224": 16,
}
# What `dataset.image_size: null` stands for with the weights that these models are published with.
SIZES = {
    "vit_micro": 28,
    "vit_b_16": 224,
    "vit_b_32": 224,
    "swin_t": 224,
    "dinov2_vits14": 518,
    "deit_tiny_patch16_224": 224,
}
# Transformer blocks, by the library's own name of the architecture without a tag.
BLOCKS = {
    "vit_micro": 4,
    **dict.fromkeys(("vit_b_16", "vit_b_32", "swin_t", "swin_v2_t"), 12),
    **dict.fromkeys(("vit_l_16", "vit_l_32", "swin_s", "swin_b", "swin_v2_s", "swin_v2_b"), 24),
    **dict.fromkeys(("deit_tiny_patch16_224", "vit_small_patch14_dinov2"), 12),
}
_LIBRARIES = {
    "wasi": "wasi.models.wasi_models",
    "torchvision": "wasi.models.torchvision_models",
    "timm": "wasi.models.timm_models",
}


def input_spec(cfg_model, image_size: int | None) -> InputSpec:
    """The weights' own input size and normalisation (a run's, for its model); `image_size` overrides the size.

    Raises UserError for an unknown model and for a size it cannot take.
    """
    architecture, header = architecture_of(cfg_model), saved_header(cfg_model["weights"])
    check_architecture(cfg_model, header)
    if image_size is not None:
        check_image_size(cfg_model["name"], image_size)
    elif header is not None:
        return header.input
    spec = library_of(cfg_model).input_spec(architecture, image_size)
    return spec if header is None else replace(header.input, image_size=spec.image_size)


def check_architecture(cfg_model, header: ModelHeader | None) -> None:
    """UserError when `model.weights` is a run's model, of `header`, but of another architecture than `model=`."""
    if header is None:
        return
    asked = cfg_model["library"], architecture_of(cfg_model)
    there = header.library, header.architecture
    if [_untagged(name) for name in asked] != [_untagged(name) for name in there]:
        allowed = f"a run of {asked[1]} ({asked[0]}); this one's model is {there[1]} ({there[0]})"
        raise UserError("model.weights", cfg_model["weights"], allowed)


def check_image_size(name: str, image_size: int, patch: int | None = None) -> None:
    """UserError when the patch (by default the named model's, if known) does not divide the size."""
    patch = patch or PATCHES.get(name, 1)
    if image_size < patch or image_size % patch:
        raise UserError("dataset.image_size", image_size, f"a multiple of {patch}, the patch size of {name}")


def known_blocks(cfg_model) -> int | None:
    """How many transformer blocks a model has, where that is known without importing its library."""
    return BLOCKS.get(_untagged(str(cfg_model.get("architecture") or cfg_model.get("name"))))


def _untagged(name: str) -> str:
    """timm's `NAME.TAG` names the same architecture for every tag."""
    return name.partition(".")[0]


def architecture_of(cfg_model) -> str:
    """The library's own name of the model. UserError for a name that was left open."""
    try:
        return cfg_model.get("architecture") or cfg_model["name"]
    except MissingMandatoryValue:
        raise UserError("model.name", "???", "the name of a timm model, as model=timm model.name=NAME") from None


def library_of(cfg_model) -> ModuleType:
    """The module that builds `cfg_model`: it has input_spec, create, create_pretrained, adapt, head_prefixes."""
    library = cfg_model["library"]
    if library not in _LIBRARIES:
        raise UserError("model.library", library, " | ".join(sorted(_LIBRARIES)))
    return importlib.import_module(_LIBRARIES[library])
