"""What classes of methods declare about themselves, read from their source without importing them or torch."""

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

from wasi.config.files import CONF, content, flat
from wasi.errors import UserError

_CONF = CONF / "method"
MARKERS = ("o", "s", "D", "d", "^", "v", "<", ">", "P", "X", "h", "8", "p", "*")  # of matplotlib's, those with an area
_COLOUR = re.compile(r"#[0-9A-Fa-f]{6}")
RANK_OPTION = re.compile(r"\$\{rank\.(\w+)\}")  # an interpolation in a method's YAML, with the option's name


@dataclass(frozen=True)
class Appearance:
    """How reports show a method.

    Args:
        order: its position among the methods in tables and legends, ascending.
        colour: `#RRGGBB`.
        marker: one of `MARKERS`.
        reference: whether it is the baseline that the others are compared with, drawn as a dashed line.
        subject: whether reports judge the claims that are made for this method.
        rival: whether a subject's claims are judged against this method too, as the established alternative.
        title: its name in running text, if that is not the name it is selected by.
        about: what it does, for a reader who does not know it.
    """

    order: float
    colour: str
    marker: str
    reference: bool = False
    subject: bool = False
    rival: bool = False
    title: str | None = None
    about: str | None = None


def method_names() -> list[str]:
    """Return the names of all methods, one per file of `conf/method`, in the order of `declared_order`."""
    return sorted((path.stem for path in _CONF.glob("*.yaml")), key=declared_order)


def declared_order(name: str) -> tuple[float, str]:
    """Return a key that sorts methods by their declared order, then by name; those without a declaration come last."""
    found = appearance(name)
    return (float("inf") if found is None else found.order), name


@cache
def appearance(name: str) -> Appearance | None:
    """Return what the class behind `conf/method/NAME.yaml` declares in `appearance[NAME]`; None if it declares nothing.

    The dictionary is read from the class's source, so it must be a literal.

    Raises:
        UserError: the class is missing, or its declaration is no literal, has other keys than `Appearance`, or values
            that reports cannot draw.
    """
    declared = _declared(name, "appearance")
    try:
        found = Appearance(**declared) if declared else None
    except TypeError as error:
        needed = [field.name for field in fields(Appearance) if field.default is MISSING]
        others = [field.name for field in fields(Appearance) if field.name not in needed]
        allowed = f"a dictionary with {', '.join(needed)}, and where wanted {', '.join(others)}"
        raise UserError("appearance", declared, allowed, _of_file(name, error)) from error
    if found is not None:
        _check_drawable(name, found)
    return found


@cache
def null_means(name: str) -> dict[str, Any]:
    """Return the method's options whose null stands for a value, as its class declares them in `null_means[NAME]`.

    The declaration must be a literal, as for `appearance`. A value `(factor, option)` means `factor` times another
    option of the method; `null_values` evaluates it.
    """
    return _declared(name, "null_means")


def null_values(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that null stands for beside the method's `options`, as far as they can be determined.

    A multiple of another option (see `null_means`) is rounded up.

    >>> null_values("peft", {"lora_rank": 5})["init_rank"], null_values("peft", {"lora_rank": None})["init_rank"]
    (8, 12)
    """
    declared = null_means(name)
    values = {option: value for option, value in declared.items() if not isinstance(value, tuple)}
    given = values | {option: value for option, value in options.items() if value is not None}
    multiples = {option: value for option, value in declared.items() if isinstance(value, tuple)}
    return values | {
        option: ceil(factor * given[of])
        for option, (factor, of) in multiples.items()
        if of in given
    }


@cache
def worth_tuning(name: str) -> dict[str, list[Any]]:
    """Return options that matter for the method's quality beside optimizer and learning rate, with the values to try.

    They are what its class declares in `worth_tuning[NAME]`, a literal as for `appearance`.
    """
    return _declared(name, "worth_tuning")


def _check_drawable(name: str, look: Appearance) -> None:
    rules = (
        ("order", isinstance(look.order, int | float), "a number"),
        ("colour", _COLOUR.fullmatch(str(look.colour)), "#RRGGBB, in hexadecimal digits"),
        ("marker", look.marker in MARKERS, f"one of {' '.join(MARKERS)}"),
    )
    for key, is_met, allowed in rules:
        if not is_met:
            fault = f"conf/method/{name}.yaml: reports cannot draw what its class declares"
            raise UserError(f"appearance.{key}", getattr(look, key), allowed, fault)


def _declared(name: str, attribute: str) -> dict[str, Any]:
    target = str(options_of(name).get("_target_", ""))
    module, _, class_name = target.rpartition(".")
    try:
        return (_class_attribute(module, class_name, attribute) or {}).get(name, {}) if module else {}
    except (ImportError, SyntaxError, ValueError, AttributeError) as error:
        allowed = f"a class whose source can be read, with {attribute} as a literal dictionary of dictionaries"
        raise UserError("_target_", target, allowed, _of_file(name, error)) from error


def _of_file(name: str, error: Exception) -> str:
    return f"conf/method/{name}.yaml: {error}"


def is_reference(name: str) -> bool:
    """Return whether the other methods are compared with this one."""
    return _says(name, "reference")


def is_subject(name: str) -> bool:
    """Return whether reports judge the claims that are made for this method."""
    return _says(name, "subject")


def is_rival(name: str) -> bool:
    """Return whether a subject's claims are judged against this method too."""
    return _says(name, "rival")


def reference() -> str:
    """Return the name of the method that the others are compared with."""
    return next(filter(is_reference, method_names()))


def title(are: Callable[[str], bool]) -> str:
    """Return the titles of all methods for which the predicate `are` holds, joined by "or", for use in a sentence.

    >>> title(is_subject), title(is_rival), title(is_reference)
    ('WASI', 'LoRA', 'vanilla')
    """
    found = {name: appearance(name) for name in method_names() if are(name)}
    return " or ".join(look.title if look and look.title else name for name, look in found.items())


@cache
def rank_option_paths(name: str) -> dict[str, str]:
    """Map each option of `rank` that the method's YAML interpolates to the method's own option that takes its value.

    The method's options are dotted keys.

    >>> rank_option_paths("asi")["activation_epsilon"]
    'activations.epsilon'
    """
    found = ((RANK_OPTION.fullmatch(str(value)), key) for key, value in flat(options_of(name)).items())
    return {match[1]: key for match, key in found if match}


def reads_rank(name: str) -> bool:
    """Return whether the method's YAML interpolates options of `rank`, also within a list or a longer text."""
    return RANK_OPTION.search(str(options_of(name))) is not None


def _says(name: str, mark: str) -> bool:
    found = appearance(name)
    return found is not None and getattr(found, mark)


def options_of(name: str) -> dict[str, Any]:
    """Return the content of the method's YAML, with interpolations as text; empty without such a file."""
    path = _CONF / f"{name}.yaml"
    return content(path) if path.is_file() else {}


def _class_attribute(module: str, class_name: str, attribute: str) -> Any:
    """Return the literal that a class body assigns to `attribute`; None if there is no such assignment."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return None
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for statement in node.body:
                if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or statement.value is None:
                    continue
                target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
                if getattr(target, "id", None) == attribute:
                    return ast.literal_eval(statement.value)
    return None
