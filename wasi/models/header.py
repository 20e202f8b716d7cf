"""The header of a saved model's file, from which the model can be rebuilt. Importing this does not import torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from wasi.data.spec import InputSpec

METADATA_KEY = "wasi"  # key of the safetensors metadata whose value is the header as JSON
FORMAT_VERSION = 1
_LARGEST_SIZE = 10_000  # pixels; images of more cannot be decoded, see `wasi.data.decode`
_LARGEST = 3.4e38  # of float32, rounded down


@dataclass(frozen=True)
class ModelHeader:
    """Everything that is needed, beside the tensors, to rebuild a trained classifier and to preprocess its images.

    Args:
        library: `torchvision`, `timm` or `wasi`.
        architecture: the library's own name of the model.
        method, scope: how it was trained (`method=` and `method.scope=`).
        classes: name of each output, in order.
        input: size, normalisation and interpolation of its images.
        layers: the linear layers of the scope with names, sizes and ranks, as in result.json (`describe_layers`).
    """

    library: str
    architecture: str
    method: str
    scope: str
    classes: tuple[str, ...]
    input: InputSpec
    layers: tuple[dict[str, Any], ...]

    @property
    def num_classes(self) -> int:
        """The number of outputs."""
        return len(self.classes)

    def to_json(self) -> str:
        """Return the header as JSON text."""
        content = {
            "format_version": FORMAT_VERSION,
            "architecture": {"library": self.library, "name": self.architecture},
            "method": self.method,
            "scope": self.scope,
            "num_classes": self.num_classes,
            "classes": self.classes,
            "input": asdict(self.input),
            "layers": self.layers,
        }
        return json.dumps(content, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> ModelHeader:
        """Parse what `to_json` wrote. Raises ValueError, with the reason, for any other text or format version."""
        try:
            content = json.loads(text)
            if content["format_version"] != FORMAT_VERSION:
                raise ValueError(f"its format_version is {content['format_version']}, not {FORMAT_VERSION}")
            source, sizes = content["architecture"], content["input"]
            spec = InputSpec(
                _checked(sizes, "image_size", _is_size, f"a whole number from 1 to {_LARGEST_SIZE}"),
                tuple(_checked(sizes, "mean", _is_per_channel, "three finite numbers")),
                tuple(_checked(sizes, "std", _is_spread, "three finite numbers above 0")),
                _checked(sizes, "interpolation", ("bilinear", "bicubic").__contains__, "bilinear or bicubic"),
            )
            return cls(
                _checked(source, "library", _is_text, "text"),
                _checked(source, "name", _is_text, "text"),
                _checked(content, "method", _is_text, "text"),
                _checked(content, "scope", _is_text, "text"),
                tuple(map(str, _checked(content, "classes", _is_list, "a list of names"))),
                spec,
                tuple(_checked(content, "layers", _are_layers, "a list of layers with names")),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its header is incomplete ({error})") from None
        except RecursionError:
            raise ValueError("its header is nested too deeply") from None


def _checked(section: dict[str, Any], key: str, test: Callable[[Any], bool], meant: str) -> Any:
    """Return a value of the header. Raises ValueError if it does not pass `test`, and KeyError if there is none."""
    if not test(section[key]):
        raise ValueError(f"in its header, {key} is not {meant}")
    return section[key]


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST_SIZE


def _is_per_channel(value: Any) -> bool:
    return _is_list(value) and len(value) == 3 and all(type(x) in (int, float) and abs(x) <= _LARGEST for x in value)


def _is_spread(value: Any) -> bool:
    return _is_per_channel(value) and min(value) > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _are_layers(value: Any) -> bool:
    return _is_list(value) and all(isinstance(layer, dict) and _is_text(layer.get("name")) for layer in value)


def header_of(cfg, spec: InputSpec, classes: list[str], layers: list[dict[str, Any]]) -> ModelHeader:
    """Return the header of a run's model, from the run's configuration and the `layers` of its result."""
    architecture = cfg.model.get("architecture") or cfg.model.name
    method, scope = cfg.method.name, cfg.method.scope
    return ModelHeader(cfg.model.library, architecture, method, scope, tuple(classes), spec, tuple(layers))
