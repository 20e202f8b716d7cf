"""What methods declare of themselves, for those who only need to know, without importing the methods and torch."""

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from math import ceil, floor
from pathlib import Path
from typing import Any

from wasi.config.files import CONF, content, flat

_CONF = CONF / "method"
_INTERPOLATION = re.compile(r"\$\{rank\.(\w+)\}")


@dataclass(frozen=True)
class Appearance:
    """How reports show a method.

    order: its place among the others in tables and legends, ascending; colour: `#RRGGBB`; marker: matplotlib's;
    reference: whether it is what the others are compared with, drawn as a dashed line; subject: whether reports judge
    its claims; rival: whether these are judged beside it too, as what one would use instead; title: its name in a
    sentence, if that is not the one it is chosen by; about: what it does, for a reader who does not know it.
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
    """The methods that there are, one per file of `conf/method`, in their order; undeclared ones at the end."""
    return sorted((path.stem for path in _CONF.glob("*.yaml")), key=place)


def place(name: str) -> tuple[float, str]:
    """A sorting key for methods."""
    found = appearance(name)
    return (float("inf") if found is None else found.order), name


@cache
def appearance(name: str) -> Appearance | None:
    """What the class behind `conf/method/NAME.yaml` declares in `appearance[NAME]`, if anything.

    The dictionary is read from the class's source, so it must be written out there.
    """
    target = _config(name).get("_target_")
    if not isinstance(target, str):
        return None
    module, _, class_name = target.rpartition(".")
    declared = _class_attribute(module, class_name, "appearance") or {}
    return Appearance(**declared[name]) if name in declared else None


@cache
def null_means(name: str) -> dict[str, Any]:
    """Options whose null stands for a value, with it: what the class declares in `null_means[NAME]`, written out like
    `appearance`. A pair `(factor, option)` stands for so many times another option, or `"model.blocks"`, see
    `null_values`."""
    return _declared(name, "null_means")


def null_values(name: str, options: Mapping[str, Any], blocks: int | None = None) -> dict[str, Any]:
    """What null stands for beside the method's `options`, where it is known; a multiple is rounded up, a share down.

    >>> null_values("peft", {"lora_rank": 5})["init_rank"], null_values("peft", {"lora_rank": None})["init_rank"]
    (8, 12)
    >>> null_values("freeze_first", {}, blocks=5), null_values("freeze_first", {})
    ({'frozen_blocks': 2}, {})

    Args:
        blocks: how many the model has, where that is known.
    """
    declared = null_means(name)
    values = {option: value for option, value in declared.items() if not isinstance(value, tuple)}
    given = values | {option: value for option, value in options.items() if value is not None}
    if blocks is not None:
        given["model.blocks"] = blocks
    multiples = {option: value for option, value in declared.items() if isinstance(value, tuple)}
    return values | {
        option: (ceil if factor > 1 else floor)(factor * given[of])
        for option, (factor, of) in multiples.items()
        if of in given
    }


@cache
def worth_tuning(name: str) -> dict[str, list[Any]]:
    """Options that decide how good the method is, beside optimizer and learning rate, with values worth a trial: what
    its class declares in `worth_tuning[NAME]`, written out like `appearance`."""
    return _declared(name, "worth_tuning")


def _declared(name: str, attribute: str) -> dict[str, Any]:
    module, _, class_name = str(_config(name).get("_target_", "")).rpartition(".")
    return (_class_attribute(module, class_name, attribute) or {}).get(name, {}) if module else {}


def is_reference(name: str) -> bool:
    """Whether the others are compared with this method."""
    return _says(name, "reference")


def is_subject(name: str) -> bool:
    """Whether reports judge the claims of this method."""
    return _says(name, "subject")


def is_rival(name: str) -> bool:
    """Whether a subject's claims are judged beside this method."""
    return _says(name, "rival")


def reference() -> str:
    """The method that others are compared with."""
    return next(filter(is_reference, method_names()))


def title(are: Callable[[str], bool]) -> str:
    """The titles of all methods of one kind, for a sentence.

    >>> title(is_subject), title(is_rival), title(is_reference)
    ('WASI', 'LoRA', 'vanilla')
    """
    found = {name: appearance(name) for name in method_names() if are(name)}
    return " or ".join(look.title if look and look.title else name for name, look in found.items())


@cache
def rank_option_places(name: str) -> dict[str, str]:
    """Under which of its own options, as dotted keys, the method's YAML takes an option of `rank` by interpolation.

    >>> rank_option_places("asi")["activation_epsilon"]
    'activations.epsilon'
    """
    found = ((_INTERPOLATION.fullmatch(str(value)), key) for key, value in flat(_config(name)).items())
    return {match[1]: key for match, key in found if match}


def reads_rank(name: str) -> bool:
    """Whether the method's YAML refers to options of `rank`."""
    path = _path(name)
    return path is not None and "${rank." in path.read_text()


def _says(name: str, mark: str) -> bool:
    found = appearance(name)
    return found is not None and getattr(found, mark)


def _path(name: str) -> Path | None:
    path = _CONF / f"{name}.yaml"
    return path if path.is_file() else None


def _config(name: str) -> dict[str, Any]:
    path = _path(name)
    return {} if path is None else content(path)


def _class_attribute(module: str, class_name: str, attribute: str) -> Any:
    """The literal that a class body assigns to `attribute`; None where it does not."""
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
