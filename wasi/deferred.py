"""Defers imports until they are needed, mainly of torch._dynamo, the compiler's front end (150 MiB, two seconds).

Nothing compiles unless `device.compile` is set. But torchvision's import takes one function of torch._dynamo, timm's
has functions marked by torch.compiler.disable, and every optimizer of torch.optim imports it in its methods, to exclude
them from compilation. timm's import also imports wandb (0.7 s), to which its training script logs, and torch's FLOP
counter imports triton (80 MiB), whose kernels it could count.
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
_CALLED_LATER = {"torch._dynamo.utils": ("is_compile_supported",)}  # functions that are imported early but called late
_WANDB, _TRITON = "wandb", "triton"
_OF_OPTIMIZERS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def import_light(name: str) -> Any:
    """Import the module `name`, of torchvision or timm, without torch._dynamo and wandb if it can do without.

    What it takes from them imports them when it is used. If that fails with some release, it is imported as usual.
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
    """Put stand-ins in the place of torch._dynamo and wandb, unless they are already imported."""
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
    """Let functions that torch excludes from compilation run inside the block without importing torch._dynamo.

    Implementations in Python for the device `meta` are among them. Once torch._dynamo is imported, these functions are
    excluded from compilation as usual, also those that were first called inside the block.
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
    """Return torch.compiler's `disable`, changed to act on a function not before its first call.

    Even then it acts only once torch._dynamo is imported; until then the function runs as it is.
    """

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

        call._torchdynamo_disable = True  # type: ignore[attr-defined]  # marks it as not to be traced
        return call

    return disable_later


@contextmanager
def triton_absent() -> Iterator[None]:
    """Make imports inside the block behave as if triton were not installed, unless it is already imported."""
    if _TRITON in sys.modules:
        yield
        return
    # None in sys.modules makes the import of a module fail.
    sys.modules[_TRITON] = None  # type: ignore[assignment]  # documented, but not in typeshed
    logger = logging.getLogger("torch.utils.flop_counter")  # it would warn that triton is missing
    disabled_before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled_before
        del sys.modules[_TRITON]


class _StandIn(ModuleType):
    """Takes a module's place during an import.

    It imports the real module as soon as it is asked for an attribute that cannot be deferred.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        if (self.__name__, name) == (_PACKAGE, "disable"):
            return _disabled_once_there_is_a_compiler(lambda *args, **kwargs: _real(_PACKAGE, name)(*args, **kwargs))
        if name in _CALLED_LATER.get(self.__name__, ()):
            return lambda *args, **kwargs: _real(self.__name__, name)(*args, **kwargs)
        return _real(self.__name__, name)


def _real(module: str, name: str) -> Any:
    """Remove all stand-ins, import the module, and return its attribute `name`."""
    _take_away({name: found for name, found in sys.modules.items() if isinstance(found, _StandIn)})
    return getattr(importlib.import_module(module), name)


def _take_away(modules: dict[str, ModuleType]) -> None:
    for name, module in modules.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]


@cache
def eager(kind: Any) -> Any:
    """Return a subclass of `kind`, an optimizer of torch.optim, without the wrappers around its methods.

    The wrappers exclude methods from compilation and import torch._dynamo when called. `kind` itself is left as it is.
    The subclass is for eager code alone, as torch.compile would trace its methods.
    """
    import torch

    methods = {name: inspect.unwrap(getattr(kind, name)) for name in _OF_OPTIMIZERS}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {"__doc__": kind.__doc__, **methods})
