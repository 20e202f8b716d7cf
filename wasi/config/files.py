"""The configuration files, as they are written."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

_PACKAGE = Path(__file__).resolve().parents[1]
# Inside an installed package; beside the package in a checkout.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"


@cache
def content(file: Path) -> dict[str, Any]:
    """Of a YAML file, interpolations as text."""
    return plain(OmegaConf.load(file))


def plain(node: object, resolve: bool = False) -> dict[str, Any]:
    """A section of a configuration as dictionaries and lists; interpolations as text, or resolved.

    Raises omegaconf.OmegaConfBaseException for a value that is to be resolved and is missing.
    """
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=resolve, throw_on_missing=resolve))


def flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as dotted key -> value.

    >>> flat({"a": {"b": 1, "c": [2, 3]}, "d": {}})
    {'a.b': 1, 'a.c': [2, 3]}
    """
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def of_group(group: str, folder: Path = CONF) -> list[Path]:
    """The files that a group chooses from, by name."""
    return sorted((folder / group).glob("*.yaml"))
