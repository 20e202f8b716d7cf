"""Replace parameters while a library constructs its modules."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def replacing_registered(made_of: Callable[[nn.Parameter], nn.Parameter]) -> Iterator[None]:
    """Within this context, modules register `made_of(parameter)` in place of every parameter that they are given."""
    register = nn.Module.register_parameter

    def instead(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, None if parameter is None else made_of(parameter))

    nn.Module.register_parameter = instead  # type: ignore[assignment, method-assign]  # restored below
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
