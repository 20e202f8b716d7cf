"""Packages that only some methods, optimizers and commands need (requirements-*.txt)."""

import importlib
import logging
import warnings
from types import ModuleType

from wasi.errors import UserError

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it warns of 4-bit kernels on CPUs


def optional(
    module: str, option: str, given: object, requirements: str = "requirements-baselines.txt"
) -> ModuleType:
    """Import `module`, which `option=given` needs, and which the file `requirements` names.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        allowed = f"with {package} installed only (pip install -r {requirements}): {error}"
        raise UserError(option, given, allowed) from error
