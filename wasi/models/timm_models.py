"""Models of timm; see `wasi.models.input_spec.library_of` for the functions."""

import difflib
import sys
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from wasi.data.spec import InputSpec
from wasi.deferred import import_light, without_compiler
from wasi.errors import UserError, first_line
from wasi.models.download import download, is_in_torchs_cache, require_reachable
from wasi.models.input_spec import check_image_size
from wasi.models.loading import State

timm = import_light("timm")

_HUB_FILE = "model.safetensors"


def input_spec(name: str, image_size: int | None) -> InputSpec:
    """Return size, normalisation and interpolation from timm's configuration of the weights.

    Raises:
        UserError: the name is unknown, or the model cannot take `image_size`.
    """
    model = _outline(name, image_size)
    wanted = timm.data.resolve_data_config({}, model=model)
    interpolation = "bilinear" if wanted["interpolation"] == "bilinear" else "bicubic"
    size = image_size or wanted["input_size"][-1]
    return InputSpec(size, tuple(wanted["mean"]), tuple(wanted["std"]), interpolation)


def create(name: str, image_size: int, num_classes: int) -> nn.Module:
    """Return the model with random weights.

    Raises:
        UserError: timm has no such architecture. Its names of models on a server or in a folder are none.
    """
    _check_architecture(name)
    return _create(name, image_size, num_classes=num_classes)


def create_pretrained(name: str, image_size: int, num_classes: int) -> nn.Module:
    """Return the model with pretrained weights, loaded by timm, and a newly initialised head.

    Raises:
        UserError: timm has no weights for the name, or they cannot be downloaded.
    """
    published = timm.models.get_pretrained_cfg(name)
    source = published and (published.hf_hub_id or published.url)
    if published is None or not source:
        raise UserError("model.weights", "pretrained", f"random | surrogate | a path: timm has none for {name}")
    with download(name, str(source)):
        cached = _cached_file(published)
        if cached is None and (published.hf_hub_id or not is_in_torchs_cache(published.url)):
            require_reachable(_address(published))
        overlay = {"file": cached} if cached else None
        options = {"pretrained": True, "pretrained_cfg_overlay": overlay}
        model: Any = _create(name, image_size, num_classes=num_classes, **options)
    if num_classes == published.num_classes:
        model.reset_classifier(num_classes)
    return model


def adapt(state: State, model: nn.Module) -> State:
    """Apply timm's checkpoint filter of the architecture, if it has one, which also resamples position embeddings."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return convert(state, model) if convert else state


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the classifier's keys in the state dict."""
    published: Any = model.pretrained_cfg
    names = published.get("classifier") or "head"
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


@lru_cache(maxsize=8)
def _outline(name: str, image_size: int | None) -> nn.Module:
    """Return the model on the meta device. Raises UserError for an unknown name, or a size that it cannot take."""
    _check_name(name)
    with torch.device("meta"), without_compiler():
        if image_size is None:
            return _create(name, None)
        try:
            model = _create(name, image_size)
            if patch := _patch_size(model):
                check_image_size(name, image_size, patch)
            with torch.no_grad():
                model.eval()(torch.zeros(1, 3, image_size, image_size))
        except (AssertionError, RuntimeError, ValueError, ZeroDivisionError) as error:
            allowed = f"a size that {name} takes ({first_line(error)})"
            raise UserError("dataset.image_size", image_size, allowed) from None
    return model


def _create(name: str, image_size: int | None, **options) -> nn.Module:
    """Create the model for `image_size`, or without `img_size` where the model does not have this argument."""
    if image_size is None:
        return timm.create_model(name, **options)
    try:
        return timm.create_model(name, img_size=image_size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **options)


def _check_name(name: str) -> None:
    """Raise UserError for an architecture or a tag that timm does not have."""
    architecture, _, tag = name.partition(".")
    _check_architecture(name)
    if tag and name not in (known := timm.list_models(pretrained=True)):
        _refuse(name, [other for other in known if other.startswith(f"{architecture}.")])


def _check_architecture(name: str) -> None:
    if not timm.is_model(name):  # does not look at the tag
        _refuse(name, timm.list_models())


def _refuse(name: str, known: list[str]) -> None:
    """Raise UserError for a name, with similar ones of `known`."""
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5) or known[:5]
    raise UserError("model.name", name, f"a name of timm.list_models(), such as {', '.join(close) or 'none'}")


def _patch_size(model: nn.Module) -> int | None:
    """Return the patch size of a model with non-overlapping patches, else None."""
    projection = getattr(getattr(model, "patch_embed", None), "proj", None)
    if isinstance(projection, nn.Conv2d) and projection.kernel_size == projection.stride:
        return projection.stride[0]
    return None


def _cached_file(published) -> str | None:
    """Return the path of the weights in Hugging Face's local cache, with which no network is needed, or None."""
    from huggingface_hub import try_to_load_from_cache

    if not published.hf_hub_id or published.custom_load:
        return None
    repository, _, revision = published.hf_hub_id.partition("@")
    file = published.hf_hub_filename or _HUB_FILE
    found = try_to_load_from_cache(repository, file, revision=revision or None)
    return found if isinstance(found, str) else None


def _address(published) -> str:
    """Return a URL that must be reachable for the download."""
    if not published.hf_hub_id:
        return published.url
    from huggingface_hub import constants

    return constants.ENDPOINT
