"""Imports that wait until they are needed: torch._dynamo, the compiler's front end, takes 150 MiB; triton, 80.

Nothing compiles unless `device.compile` is set, but torchvision's import asks for one function of torch._dynamo, every
torch.optim optimizer imports it in its methods, to tell the compiler to leave them alone, and torch's FLOP counter
imports triton, whose kernels it could count. timm's models import torch._dynamo whatever is done here: one of them
(naflexvit) calls torch.compiler.disable when it is imported.
"""

import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

_PACKAGE, _MODULE = "torch._dynamo", "torch._dynamo.utils"
_TRITON = "triton"
_OF_OPTIMIZERS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


@contextmanager
def dynamo_deferred() -> Iterator[None]:
    """Functions that an import inside takes from `torch._dynamo.utils` import it when they are called first.

    Once torch._dynamo is there, nothing is deferred.
    """
    stand_ins = {} if _PACKAGE in sys.modules else {_PACKAGE: ModuleType(_PACKAGE), _MODULE: _StandIn(_MODULE)}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        _take_away(stand_ins)


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
    """For the time of an import in the module's place."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **kwargs):
            _take_away({name: module for name, module in sys.modules.items() if isinstance(module, _StandIn)})
            return getattr(importlib.import_module(self.__name__), name)(*args, **kwargs)

        return call


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
