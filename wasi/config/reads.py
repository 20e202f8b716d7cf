"""Which options one section of a configuration reads from another, by interpolation."""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf


def options_read(cfg: DictConfig, section: str, of: str) -> set[str]:
    """Names of the `of` options that `section` interpolates.

    >>> cfg = OmegaConf.create({"rank": {"a": 1, "b": 2}, "method": {"x": "${rank.a}", "y": [3]}})
    >>> options_read(cfg, "method", of="rank")
    {'a'}
    """
    pattern = re.compile(rf"\$\{{{re.escape(of)}\.(\w+)\}}")
    raw = OmegaConf.to_container(cfg[section], resolve=False)
    return {name for text in _strings(raw) for name in pattern.findall(text)}


def _strings(value: Any):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
