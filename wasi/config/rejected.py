"""What Hydra refuses while it composes, as one line; what this module does not know stays Hydra's to tell."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from wasi.errors import UserError

_CONF = Path(__file__).resolve().parents[2] / "conf"
_GIVEN = re.compile(r"use \+([^\s=]+)=(.*)")  # the override, as Hydra repeats it


def rejected(error: ConfigCompositionException, words: Sequence[str] = ()) -> UserError | None:
    """The mistake behind `error`: an option that does not exist (here), or a choice that its group does not have.

    None for anything else. `words` are those of the command line.
    """
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error)
    given, node = _GIVEN.search(str(error)), getattr(error.__cause__, "parent_node", None)
    if not str(error).startswith("Could not override") or given is None or not isinstance(node, DictConfig):
        return None
    option, value = given.groups()
    allowed, section = _allowed(option, node), option.partition(".")[0]
    if any(word.startswith(f"{section}=") and "," in word for word in words):  # Hydra composes the default first
        allowed += f"; in a sweep over {section} write '{option}=choice({value})'"
    return UserError(option, value, allowed)


def rejected_null(error: ValueError, words: Sequence[str]) -> UserError | None:
    """`model=null`, for which Hydra has a traceback; None for another error, and for a group that may be null."""
    if not str(error).startswith("Config group override must be"):
        return None
    for word in words:
        group, _, value = word.partition("=")
        files = sorted((_CONF / group).glob("*.yaml")) if group else []
        if files and value.strip() in ("null", "", "~"):
            return UserError(group, value, ", ".join(file.stem for file in files))
    return None


def _unknown_choice(error: MissingConfigException) -> UserError | None:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    return UserError(group, name, ", ".join(error.options)) if group and error.options else None


def _allowed(option: str, node: DictConfig) -> str:
    """Args: node: the composed section that lacks the option."""
    section, *rest = option.split(".")
    has = [str(key) for key in node if not str(key).startswith("_")]
    inside = option.rpartition(".")[0]
    listed = f"one of {', '.join(sorted(f'{inside}.{key}' if inside else key for key in has))}"
    owners = [file.stem for file in sorted((_CONF / section).glob("*.yaml")) if _has(file, rest)]
    if not rest or not owners:
        return listed
    here = f", not with {section}={node.get('name')}" if node.get("name") else ""
    return f"for {section}={' or '.join(owners)} only{here}"


def _has(file: Path, keys: list[str]) -> bool:
    value: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True
