"""Configuration files and their sections, as plain dictionaries and lists."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

_PACKAGE = Path(__file__).resolve().parents[1]
# The folder lies inside an installed package, but beside the package in a checkout.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"


@cache
def content(file: Path) -> dict[str, Any]:
    """Return the content of a YAML file, with interpolations as unresolved text."""
    return plain(OmegaConf.load(file))


def plain(node: object, resolve: bool = False) -> dict[str, Any]:
    """Convert a section of a configuration to dictionaries and lists.

    Args:
        resolve: whether to resolve interpolations; otherwise they stay text.

    Raises:
        omegaconf.OmegaConfBaseException: with `resolve`, a value is missing or an interpolation cannot be resolved.
    """
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=resolve, throw_on_missing=resolve))


def flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested options to a mapping from dotted keys to values.

    >>> flat({"a": {"b": 1, "c": [2, 3]}, "d": {}})
    {'a.b': 1, 'a.c': [2, 3]}
    """
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by dotted key as nested sections, which `flat` flattens to the same options.

    >>> nested({"a.b": 1, "a.c": [2, 3], "d": None})
    {'a': {'b': 1, 'c': [2, 3]}, 'd': None}
    """
    found: dict[str, Any] = {}
    for key, value in options.items():
        *sections, option = key.split(".")
        node = found
        for section in sections:
            node = node.setdefault(section, {})
        node[option] = value
    return found


def select(config: Mapping, key: str) -> Any:
    """Return the value at a dotted `key`; None where there is none.

    >>> select({"model": {"name": "vit"}}, "model.name")
    'vit'
    """
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def of_group(group: str, folder: Path = CONF) -> list[Path]:
    """Return the YAML files among which an option group chooses, sorted by name."""
    return sorted((folder / group).glob("*.yaml"))
