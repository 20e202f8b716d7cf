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
    # torch 2.9 has replaced `allow_tf32`, which raises once `fp32_precision` was used.
    name, full = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, name)
    if before == full:
        yield
        return
    setattr(matmul, name, full)
    try:
        yield
    finally:
        setattr(matmul, name, before)
