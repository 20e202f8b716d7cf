"""Checks options that are passed as arguments to a class or function, such as those of `optimizer` and `scheduler`."""

import ast
from collections.abc import Callable, Collection, Mapping
from functools import cache
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path
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


@cache
def default_arguments(path: str) -> dict[str, Any]:
    """Return the literal defaults of the arguments of the class at a dotted path, read from its source: no import.

    The class may be in any file of the package that the path names, as those of `torch.optim` are. The result is empty
    if it is not found. Tuples become lists, as options have no tuples.

    >>> default_arguments("torch.optim.Adagrad")["initial_accumulator_value"], default_arguments("no.Such")
    (0, {})
    """
    package, _, name = path.rpartition(".")
    top, *inside = package.split(".")
    spec = find_spec(top) if top else None
    if spec is None or spec.origin is None:
        return {}
    location = Path(spec.origin).parent.joinpath(*inside)
    for file in sorted(location.glob("*.py")) if location.is_dir() else [location.with_suffix(".py")]:
        source = file.read_text(encoding="utf-8") if file.is_file() else ""
        if f"class {name}(" in source:
            made = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
            return _defaults_of(next(made, None))
    return {}


def _defaults_of(node: ast.ClassDef | None) -> dict[str, Any]:
    """Return the literal defaults of the arguments of a class's `__init__`."""
    found: dict[str, Any] = {}
    for method in node.body if node is not None else ():
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            taken = method.args
            plain = taken.args[len(taken.args) - len(taken.defaults) :]
            pairs = [*zip(plain, taken.defaults, strict=True), *zip(taken.kwonlyargs, taken.kw_defaults, strict=True)]
            for argument, default in pairs:
                try:
                    value = ast.literal_eval(default) if default is not None else None
                except ValueError:
                    continue
                found[argument.arg] = list(value) if isinstance(value, tuple) else value
    return found


def _settable(cfg: Mapping[Any, Any], parameters: Any) -> set[str]:
    """Return the arguments that an option may set: those that `cfg` sets, and all others that have a default."""
    return {name for name, found in parameters.items() if name in cfg or found.default is not Parameter.empty}
