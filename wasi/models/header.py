"""The header of a saved model's file, from which the model can be rebuilt. Importing this does not import torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from wasi.data.spec import InputSpec

METADATA_KEY = "wasi"  # key of the safetensors metadata whose value is the header as JSON
FORMAT_VERSION = 1


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
                int(sizes["image_size"]), tuple(sizes["mean"]), tuple(sizes["std"]), sizes["interpolation"]
            )
            return cls(
                source["library"],
                source["name"],
                content["method"],
                content["scope"],
                tuple(map(str, content["classes"])),
                spec,
                tuple(content["layers"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its header is incomplete ({error})") from None


def header_of(cfg, spec: InputSpec, classes: list[str], layers: list[dict[str, Any]]) -> ModelHeader:
    """Return the header of a run's model, from the run's configuration and the `layers` of its result."""
    architecture = cfg.model.get("architecture") or cfg.model.name
    method, scope = cfg.method.name, cfg.method.scope
    return ModelHeader(cfg.model.library, architecture, method, scope, tuple(classes), spec, tuple(layers))
