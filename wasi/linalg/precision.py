"""Precision of matrix products."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, products of float32 matrices on a GPU are not rounded to TF32, even under `device.tf32=true`.

    With TF32, bases would not be orthonormal, and polar factors wrong where a gradient is badly conditioned.
    """
    matmul = torch.backends.cuda.matmul
    name: str
    full: bool | str
    try:
        before, name, full = matmul.allow_tf32, "allow_tf32", False
    except RuntimeError:  # from torch 2.9 on, once `fp32_precision` was used: torch refuses a mixture of the two
        before, name, full = matmul.fp32_precision, "fp32_precision", "ieee"
    if before == full:
        yield
        return
    setattr(matmul, name, full)
    try:
        yield
    finally:
        setattr(matmul, name, before)
