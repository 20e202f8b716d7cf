"""Precision of matrix products."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, products of float32 matrices on a GPU are not rounded to TF32, even under `device.tf32=true`.

    With TF32, bases would not be orthonormal, and polar factors wrong where a gradient is badly conditioned.
    """
    before, full, set_to = _interface()
    if before == full:
        yield
        return
    set_to(full)
    try:
        yield
    finally:
        set_to(before)


def _interface() -> tuple[Any, Any, Callable[[Any], object]]:
    """Return the current precision, full precision, and the function that sets it, of the interface that is in use."""
    matmul = torch.backends.cuda.matmul
    try:
        if matmul.allow_tf32 and (now := torch.get_float32_matmul_precision()) == "medium":
            return now, "highest", torch.set_float32_matmul_precision  # `allow_tf32` would set it to "high" again
        return matmul.allow_tf32, False, partial(setattr, matmul, "allow_tf32")
    except RuntimeError:  # from torch 2.9 on, once `fp32_precision` was used: torch refuses a mixture of the two
        now = matmul.fp32_precision
        everywhere: str = torch.backends.fp32_precision  # type: ignore[attr-defined]  # the module gets it at import
        # A setting of its own, once put back, would hide later changes of the global one; with "none" it follows that.
        # Where both are "ieee", nothing is to be set nor put back.
        follows = now == everywhere and now != "ieee"
        return "none" if follows else now, "ieee", partial(setattr, matmul, "fp32_precision")
