"""Recognises out-of-memory errors, and runs again with smaller micro-batches after one."""

import errno
import gc
import logging
import sys
from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf

from wasi.errors import Diverged, UserError, type_and_text

log = logging.getLogger(__name__)

# torch raises a plain RuntimeError on a CPU; its allocator's message differs between glibc, mimalloc and Windows.
_SAID = (
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    "not enough memory: you tried to allocate",
    "out of memory",
    "STATUS_ALLOC_FAILED",  # of cuBLAS, cuSOLVER, cuSPARSE and cuDNN
    "ALLOCATION_FAILED",  # of cuDNN 9
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` is a MemoryError, the operating system's ENOMEM, or what torch raises on a CPU or a GPU.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."))
    True
    """
    if isinstance(error, (MemoryError, OSError)):
        return isinstance(error, MemoryError) or error.errno == errno.ENOMEM
    if not isinstance(error, Exception) or isinstance(error, (UserError, Diverged)):
        return False
    return any(words in str(error) for words in _SAID)


def halved(cfg: DictConfig) -> int | None:
    """Return half of `train.micro_batch_size`, or the next smaller divisor of the batch size; None below one image.

    >>> halved(OmegaConf.create({"dataset": {"batch_size": 24}, "train": {"micro_batch_size": 3}}))
    1
    """
    batch = cfg.dataset.batch_size
    now = cfg.train.micro_batch_size or batch
    return next((size for size in range(now // 2, 0, -1) if batch % size == 0), None)


def with_micro_batch_size(cfg: DictConfig, size: int) -> DictConfig:
    """Return a copy of the configuration with this `train.micro_batch_size`."""
    smaller = cfg.copy()
    OmegaConf.update(smaller, "train.micro_batch_size", size)
    return smaller


def with_less_memory(
    attempt: Callable[[DictConfig], None], cfg: DictConfig, on_smaller: Callable[[int, str], None]
) -> None:
    """Call `attempt(cfg)`; with `train.on_oom=halve` again, each time with `train.micro_batch_size` halved.

    Args:
        on_smaller: called with the new size and the error's text before the next attempt.

    Raises:
        Exception: whatever `attempt` raises; an out-of-memory error if the size must not or cannot be halved.
    """
    while True:
        try:
            return attempt(cfg)
        except Exception as error:
            size = halved(cfg) if cfg.train.on_oom == "halve" and is_out_of_memory(error) else None
            if size is None:
                raise
            text = type_and_text(error)
        collect_garbage()  # now that the frames of the failed attempt are gone
        log.warning("out of memory, again with train.micro_batch_size=%d (train.on_oom=halve): %s", size, text)
        on_smaller(size, text)
        cfg = with_micro_batch_size(cfg, size)


def collect_garbage() -> None:
    """Free reference cycles that a failed attempt has left, and return the GPU's cached blocks to the driver."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
