"""Imports that wait until they are needed: torch._dynamo, the compiler's front end, takes 150 MiB and two seconds.

Nothing compiles unless `device.compile` is set, but torchvision's import asks for one function of torch._dynamo, timm's
has functions marked by torch.compiler.disable, and every torch.optim optimizer imports it in its methods, to tell the
compiler to leave them alone. timm's import asks for wandb too (0.7 s), which its training script logs to, and torch's
FLOP counter for triton (80 MiB), whose kernels it could count.
"""

import importlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from types import FunctionType, ModuleType
from typing import Any

_PACKAGE = "torch._dynamo"
_CALLED_LATER = {"torch._dynamo.utils": ("is_compile_supported",)}  # functions that are taken on import
_WANDB, _TRITON = "wandb", "triton"
_OF_OPTIMIZERS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def import_light(name: str) -> Any:
    """The module `name`, of torchvision or timm, imported without torch._dynamo and wandb where it can do without.

    What it takes from them imports them when it is used. Where a release does not stand that, it is imported as usual.
    """
    if name in sys.modules:
        return sys.modules[name]
    try:
        with _deferred():
            return importlib.import_module(name)
    except (ImportError, AttributeError):
        return importlib.import_module(name)


@contextmanager
def _deferred() -> Iterator[None]:
    """Stand-ins in the place of torch._dynamo and wandb; of what is there already, none."""
    with without_compiler():
        stand_ins: dict[str, ModuleType] = {}
        if _WANDB not in sys.modules and importlib.util.find_spec(_WANDB):
            stand_ins = {_WANDB: _StandIn(_WANDB)}
        sys.modules.update(stand_ins)
        try:
            yield
        finally:
            _take_away(stand_ins)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Functions that torch hides from its compiler when they are called run as they are, and do not import it.

    Among them are those in Python that compute on `meta`. Once the compiler is there, they are hidden from it as usual,
    those that were called inside too.
    """
    if _PACKAGE in sys.modules:
        yield
        return
    stand_ins: dict[str, ModuleType] = {name: _StandIn(name) for name in (_PACKAGE, *_CALLED_LATER)}
    sys.modules.update(stand_ins)
    compiler: Any = getattr(importlib.import_module("torch"), "compiler", None)
    disable = getattr(compiler, "disable", None)
    if disable is not None:
        compiler.disable = _disabled_once_there_is_a_compiler(disable)
    try:
        yield
    finally:
        if disable is not None:
            compiler.disable = disable
        _take_away(stand_ins)


def _compiler_is_there() -> bool:
    return _PACKAGE in sys.modules and not isinstance(sys.modules[_PACKAGE], _StandIn)


def _disabled_once_there_is_a_compiler(disable: Callable[..., Any]) -> Callable[..., Any]:
    """`disable`, torch.compiler's, which for a function acts when that is called and torch._dynamo is there."""

    @wraps(disable)
    def disable_later(*args: Any, **kwargs: Any) -> Any:
        function = args[0] if args else None
        if not isinstance(function, FunctionType):
            return disable(*args, **kwargs)
        disabled: Callable[..., Any] | None = None

        @wraps(function)
        def call(*of_call: Any, **by_name: Any) -> Any:
            nonlocal disabled
            if not _compiler_is_there():
                return function(*of_call, **by_name)
            if disabled is None:
                disabled = disable(*args, **kwargs)
            return disabled(*of_call, **by_name)

        call._torchdynamo_disable = True  # type: ignore[attr-defined]  # the compiler's own mark: do not look inside
        return call

    return disable_later


@contextmanager
def triton_absent() -> Iterator[None]:
    """An import inside does as where triton is not installed. Once triton is there, nothing changes."""
    if _TRITON in sys.modules:
        yield
        return
    # By None the import system knows a module that cannot be imported.
    sys.modules[_TRITON] = None  # type: ignore[assignment]  # documented, but not in typeshed
    logger = logging.getLogger("torch.utils.flop_counter")  # which would say so
    told, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = told
        del sys.modules[_TRITON]


class _StandIn(ModuleType):
    """For the time of an import in a module's place, which it imports when it is asked for more than it can put off."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        if (self.__name__, name) == (_PACKAGE, "disable"):
            return _disabled_once_there_is_a_compiler(lambda *args, **kwargs: _real(_PACKAGE, name)(*args, **kwargs))
        if name in _CALLED_LATER.get(self.__name__, ()):
            return lambda *args, **kwargs: _real(self.__name__, name)(*args, **kwargs)
        return _real(self.__name__, name)


def _real(module: str, name: str) -> Any:
    """What the module has by that name, imported in the place of all stand-ins."""
    _take_away({name: found for name, found in sys.modules.items() if isinstance(found, _StandIn)})
    return getattr(importlib.import_module(module), name)


def _take_away(modules: dict[str, ModuleType]) -> None:
    for name, module in modules.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]


@cache
def eager(kind: Any) -> Any:
    """A subclass of `kind`, an optimizer of torch.optim, whose methods do the same but are nothing to a compiler.

    `kind` itself is left as it is. Under torch.compile its own methods would be traced, so it is for eager code.
    """
    import torch

    methods = {name: inspect.unwrap(getattr(kind, name)) for name in _OF_OPTIMIZERS}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {"__doc__": kind.__doc__, **methods})
