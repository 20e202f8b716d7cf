"""What a saved model's file says about the model, so that it can be opened anywhere. No torch at import."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from wasi.data.spec import InputSpec

METADATA_KEY = "wasi"  # of the safetensors metadata; its value is the header as JSON
FORMAT_VERSION = 1


@dataclass(frozen=True)
class ModelHeader:
    """Everything that is needed to rebuild a trained classifier around its tensors, and to feed it.

    Args:
        library: `torchvision`, `timm` or `wasi`; architecture: the library's own name of the model.
        method, scope: how it was trained (`method=` and `method.scope=`).
        classes: name of each output, in order.
        input: size, normalisation and interpolation of its images.
        layers: per linear layer of the scope its name, sizes and ranks, as in result.json.
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
        return len(self.classes)

    def to_json(self) -> str:
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
        """Raises ValueError, with the reason, for a text that `to_json` of this version did not write."""
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
    """The header of a run's model; `cfg` is the run's configuration, `layers` its result's."""
    architecture = cfg.model.get("architecture") or cfg.model.name
    method, scope = cfg.method.name, cfg.method.scope
    return ModelHeader(cfg.model.library, architecture, method, scope, tuple(classes), spec, tuple(layers))
