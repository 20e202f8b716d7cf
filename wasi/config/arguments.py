"""Checks options that are passed as arguments to a class or function, such as those of `optimizer` and `scheduler`."""

from collections.abc import Callable, Collection, Mapping
from inspect import Parameter, signature
from pkgutil import resolve_name
from typing import Any

from wasi.errors import UserError


def target_of(
    section: str, cfg: Mapping[Any, Any], beside: Collection[str] = (), filled: Collection[str] = ()
) -> Callable[..., Any]:
    """Return the class or function that `_target_` names, after checking that it takes the options of `cfg`.

    A target with `**kwargs` takes any option.

    Args:
        section: name of the options' group or section, for the error message.
        cfg: the options; those with a leading underscore are Hydra's.
        beside: options that are allowed although the target has no such argument.
        filled: arguments that the caller supplies, which therefore may not be given as options.

    Raises:
        UserError: `_target_` cannot be imported, or it has no argument of an option's name.
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


def _settable(cfg: Mapping[Any, Any], parameters: Any) -> set[str]:
    """Return the arguments that an option may set: those that `cfg` sets, and all others that have a default."""
    return {name for name, found in parameters.items() if name in cfg or found.default is not Parameter.empty}
