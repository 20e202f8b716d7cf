"""Expands `~` in given paths, and removes absolute paths from what is uploaded or shown to others."""

import os
import re
from pathlib import Path
from typing import Any

_WITHIN_TEXT = re.compile(r"(?<![^\s'\"=(\[{,;<>])(?:~[^\s/]*)?/[^\s'\"(),;:\[\]{}<>|]+")


def expanded(given: str | Path) -> Path:
    """Return a path with `~` and `~user` expanded; of an unknown user as it is, where `Path.expanduser` would raise."""
    return Path(os.path.expanduser(given))


def shown(path: Path) -> str:
    """Return the path as text, relative to the working folder if it lies inside."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def text_without_absolute_paths(text: str) -> str:
    """Shorten absolute paths in a message as `without_absolute_paths` does; a path with spaces is shortened in parts.

    >>> text_without_absolute_paths("'/home/someone/photos/a.png' is no image (1/2), see https://pytorch.org/")
    "'a.png' is no image (1/2), see https://pytorch.org/"
    """
    return _WITHIN_TEXT.sub(lambda found: without_absolute_paths(found[0]) or found[0], text)


def without_absolute_paths(value: Any) -> Any:
    """Return a configuration or result whose absolute paths are relative to the working folder, or else names alone.

    >>> without_absolute_paths({"dataset": {"root": "/home/someone/photos"}, "lr": 0.1})
    {'dataset': {'root': 'photos'}, 'lr': 0.1}
    """
    if isinstance(value, dict):
        return {key: without_absolute_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_absolute_paths(item) for item in value]
    if not isinstance(value, str) or not (path := expanded(value)).is_absolute():
        return value
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name
