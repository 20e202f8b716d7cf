"""Imports packages that only some methods, optimizers and commands need (requirements-*.txt)."""

import importlib
import importlib.util
import logging
import sys
import warnings
from types import ModuleType

from wasi.errors import UserError

_BASELINES = "requirements-baselines.txt"
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it warns of 4-bit kernels on CPUs


def optional(
    module: str, option: str, given: object, requirements: str = _BASELINES, package: str | None = None
) -> ModuleType:
    """Import and return `module`, which `option=given` needs.

    Args:
        requirements: the file that lists its package, for the message.
        package: the package's name, if it is not that of the outermost module.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        raise _refusal(package or module.partition(".")[0], option, given, requirements, str(error)) from error


def check_installed(package: str, option: str, given: object) -> None:
    """Raise `UserError`, as `optional` does, if `package` is not installed; imports nothing."""
    if not (sys.modules.get(package) or importlib.util.find_spec(package)):
        raise _refusal(package, option, given, _BASELINES, f"No module named '{package}'")


def _refusal(package: str, option: str, given: object, requirements: str, reason: str) -> UserError:
    return UserError(option, given, f"with {package} installed only (pip install -r {requirements}): {reason}")
