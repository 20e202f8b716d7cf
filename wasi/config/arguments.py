"""Options that a library's class or function takes as its arguments: those of `optimizer` and `scheduler`."""

from collections.abc import Callable, Collection
from inspect import Parameter, signature
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig

from wasi.errors import UserError


def target_of(
    section: str, cfg: DictConfig, beside: Collection[str] = (), filled: Collection[str] = ()
) -> Callable[..., Any]:
    """What `_target_` names.

    Args:
        section: the options' group, for what is refused; cfg: its options.
        beside: options that are not meant for the target; filled: arguments that are not options.

    Raises:
        UserError: there is no such class or function here, or it has no argument of an option's name.
    """
    path = cfg["_target_"]
    try:
        target = resolve_name(path)
        parameters = signature(target).parameters
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        allowed = f"the dotted path of a class or function that can be imported ({error})"
        raise UserError(f"{section}._target_", path, allowed) from error
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return target
    for key, value in ((str(key), value) for key, value in cfg.items()):
        if key in filled or (not key.startswith("_") and key not in parameters and key not in beside):
            names = ", ".join(sorted(f"{section}.{name}" for name in _settable(cfg, parameters) - {*filled}))
            allowed = f"one of {names}, the arguments of {path}" if names else f"nothing here: {path} has no arguments"
            raise UserError(f"{section}.{key}", value, allowed)
    return target


def _settable(cfg: DictConfig, parameters: Any) -> set[str]:
    """Arguments that an option can give: those that it gives, and others that have a default."""
    return {name for name, found in parameters.items() if name in cfg or found.default is not Parameter.empty}
