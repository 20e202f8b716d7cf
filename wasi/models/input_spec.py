"""A model's input size and normalisation, and the module that builds it. Importing this does not import torch."""

import importlib
from dataclasses import replace
from types import ModuleType

from omegaconf import MissingMandatoryValue

from wasi.data.spec import InputSpec
from wasi.errors import UserError
from wasi.models.header import ModelHeader
from wasi.models.weights_file import saved_header

# Patch sizes, known without importing a library, so that a wrong image size is reported at once.
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
# Sizes of the images that the published weights were made for, by the library's own name of the architecture without
# timm's tag.
SIZES = {
    "vit_micro": 28,
    **dict.fromkeys(("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "swin_t", "swin_s", "swin_b"), 224),
    **dict.fromkeys(("swin_v2_t", "swin_v2_s", "swin_v2_b"), 256),
    "deit_tiny_patch16_224": 224,
    "vit_small_patch14_dinov2": 518,
}
_LIBRARIES = {
    "wasi": "wasi.models.wasi_models",
    "torchvision": "wasi.models.torchvision_models",
    "timm": "wasi.models.timm_models",
}


def input_spec(cfg_model, image_size: int | None) -> InputSpec:
    """Return the input size and normalisation that belong to the weights; `image_size` overrides the size.

    For a saved run's model they are those of the run, else those of the published weights.

    Raises:
        UserError: the model is unknown or of another architecture than the weights, or cannot take the size.
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
    """Raise UserError if `model.weights` is a run's model whose `header` names another architecture than `model=`."""
    if header is None:
        return
    asked = cfg_model["library"], architecture_of(cfg_model)
    there = header.library, header.architecture
    if [_untagged(name) for name in asked] != [_untagged(name) for name in there]:
        allowed = f"a run of {asked[1]} ({asked[0]}); this one's model is {there[1]} ({there[0]})"
        raise UserError("model.weights", cfg_model["weights"], allowed)


def check_image_size(name: str, image_size: int, patch: int | None = None) -> None:
    """Raise UserError if the patch size (by default that of the named model, if known) does not divide the size."""
    patch = patch or PATCHES.get(name, 1)
    if image_size < patch or image_size % patch:
        raise UserError("dataset.image_size", image_size, f"a multiple of {patch}, the patch size of {name}")


def known_image_size(cfg_model) -> int | None:
    """Return the size that `dataset.image_size=null` stands for, or None if it cannot be determined.

    For a saved run's model it is in the file, which may be on another machine. For a model of timm that is not in
    `SIZES`, timm is imported.
    """
    try:
        header = saved_header(str(cfg_model.get("weights")))
    except UserError:
        return None
    if header is not None:
        return header.input.image_size
    known = SIZES.get(_untagged(str(cfg_model.get("architecture") or cfg_model.get("name"))))
    if known is not None or cfg_model.get("library") != "timm":
        return known
    try:
        return library_of(cfg_model).input_spec(architecture_of(cfg_model), None).image_size
    except UserError:  # an unknown name, which is reported where the model is built
        return None


def _untagged(name: str) -> str:
    """Return NAME of timm's `NAME.TAG`: tags distinguish weights, not architectures."""
    return name.partition(".")[0]


def architecture_of(cfg_model) -> str:
    """Return the library's own name of the model. Raises UserError if the mandatory `model.name` was not given."""
    try:
        return cfg_model.get("architecture") or cfg_model["name"]
    except MissingMandatoryValue:
        raise UserError("model.name", "???", "the name of a timm model, as model=timm model.name=NAME") from None


def library_of(cfg_model) -> ModuleType:
    """Return the module that builds `cfg_model`; importing it imports the library. Raises UserError if it is unknown.

    Each of these modules has five functions:

    - `input_spec(name, image_size)`: input size and normalisation, see `input_spec` here;
    - `create(name, image_size, num_classes)`: the model with random weights;
    - `create_pretrained(name, image_size, num_classes)`: the model with published weights and a new head;
    - `adapt(state, model)`: a checkpoint's state dict converted for `model`, as for another image size;
    - `head_prefixes(model)`: prefixes of the classifier's keys in the state dict.
    """
    library = cfg_model["library"]
    if library not in _LIBRARIES:
        raise UserError("model.library", library, " | ".join(sorted(_LIBRARIES)))
    return importlib.import_module(_LIBRARIES[library])
