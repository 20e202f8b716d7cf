"""Any classifier that timm knows by name."""

import difflib
import sys
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from wasi.data.spec import InputSpec
from wasi.deferred import import_light, without_compiler
from wasi.errors import UserError
from wasi.models.download import download, require_reachable
from wasi.models.input_spec import check_image_size
from wasi.models.loading import State

timm = import_light("timm")

_HUB_FILE = "model.safetensors"


def input_spec(name: str, image_size: int | None) -> InputSpec:
    """Size, normalisation and interpolation of the weights' own configuration."""
    model = _outline(name, image_size)
    wanted = timm.data.resolve_data_config({}, model=model)
    interpolation = "bilinear" if wanted["interpolation"] == "bilinear" else "bicubic"
    size = image_size or wanted["input_size"][-1]
    return InputSpec(size, tuple(wanted["mean"]), tuple(wanted["std"]), interpolation)


def create(name: str, image_size: int, num_classes: int) -> nn.Module:
    return _create(name, image_size, num_classes=num_classes)


def create_pretrained(name: str, image_size: int, num_classes: int) -> nn.Module:
    """timm's own loading, which knows each model's quirks; the head is always fresh.

    Raises UserError when timm has no weights for the name, or when they cannot be downloaded.
    """
    published = timm.models.get_pretrained_cfg(name)
    place = published and (published.hf_hub_id or published.url)
    if published is None or not place:
        raise UserError("model.weights", "pretrained", f"random | surrogate | a path: timm has none for {name}")
    with download(name, str(place)):
        cached = _cached_file(published)
        if cached is None:
            require_reachable(_address(published))
        overlay = {"file": cached} if cached else None
        options = {"pretrained": True, "pretrained_cfg_overlay": overlay}
        model: Any = _create(name, image_size, num_classes=num_classes, **options)
    if num_classes == published.num_classes:
        model.reset_classifier(num_classes)
    return model


def adapt(state: State, model: nn.Module) -> State:
    """timm's filter for this architecture's checkpoints, which resamples position embeddings too."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return convert(state, model) if convert else state


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    published: Any = model.pretrained_cfg
    names = published.get("classifier") or "head"
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


@lru_cache(maxsize=8)
def _outline(name: str, image_size: int | None) -> nn.Module:
    """The model without storage. UserError for an unknown name and for a size that it cannot take."""
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
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError("dataset.image_size", image_size, f"a size that {name} takes ({reason})") from None
    return model


def _create(name: str, image_size: int | None, **options) -> nn.Module:
    """Convolutional models take any size and know no `img_size`."""
    if image_size is None:
        return timm.create_model(name, **options)
    try:
        return timm.create_model(name, img_size=image_size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **options)


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        _refuse(name, timm.list_models())
    if tag and name not in (known := timm.list_models(pretrained=True)):
        _refuse(name, [other for other in known if other.startswith(f"{architecture}.")])


def _refuse(name: str, known: list[str]) -> None:
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5) or known[:5]
    raise UserError("model.name", name, f"a name of timm.list_models(), such as {', '.join(close) or 'none'}")


def _patch_size(model: nn.Module) -> int | None:
    """The patch of a model that cuts its image into patches without overlap, else None."""
    projection = getattr(getattr(model, "patch_embed", None), "proj", None)
    if isinstance(projection, nn.Conv2d) and projection.kernel_size == projection.stride:
        return projection.stride[0]
    return None


def _cached_file(published) -> str | None:
    """The hub's file from an earlier download: with it nothing is asked of the network."""
    from huggingface_hub import try_to_load_from_cache

    if not published.hf_hub_id or published.custom_load:
        return None
    repository, _, revision = published.hf_hub_id.partition("@")
    file = published.hf_hub_filename or _HUB_FILE
    found = try_to_load_from_cache(repository, file, revision=revision or None)
    return found if isinstance(found, str) else None


def _address(published) -> str:
    if not published.hf_hub_id:
        return published.url
    from huggingface_hub import constants

    return constants.ENDPOINT
