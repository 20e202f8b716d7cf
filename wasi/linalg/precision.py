"""Precision of matrix products."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, products of float32 matrices on a GPU are not rounded to TF32, even under `device.tf32=true`.

    With TF32, bases would not be orthonormal, and polar factors wrong where a gradient is badly conditioned.
    """
    tf32 = torch.backends.cuda.matmul.allow_tf32
    if tf32:
        torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        if tf32:
            torch.backends.cuda.matmul.allow_tf32 = True
