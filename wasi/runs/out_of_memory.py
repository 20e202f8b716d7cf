"""Out of memory, told apart from other failures; and a run that goes on with smaller micro-batches after it."""

import errno
import gc
import logging
import sys
from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf

from wasi.errors import Diverged, UserError

log = logging.getLogger(__name__)

# torch raises a plain RuntimeError on a CPU; its allocator's words differ between glibc, mimalloc and Windows.
_SAID = (
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    "not enough memory: you tried to allocate",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Python's MemoryError, the operating system's ENOMEM, and what torch raises on a CPU or a GPU.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."))
    True
    """
    if isinstance(error, (MemoryError, OSError)):
        return isinstance(error, MemoryError) or error.errno == errno.ENOMEM
    if not isinstance(error, Exception) or isinstance(error, (UserError, Diverged)):
        return False
    return any(words in str(error) for words in _SAID)


def halved(cfg: DictConfig) -> int | None:
    """Half of `train.micro_batch_size`, or the next smaller divisor of the batch size; None below one image.

    >>> halved(OmegaConf.create({"dataset": {"batch_size": 24}, "train": {"micro_batch_size": 3}}))
    1
    """
    batch = cfg.dataset.batch_size
    now = cfg.train.micro_batch_size or batch
    return next((size for size in range(now // 2, 0, -1) if batch % size == 0), None)


def with_micro_batch_size(cfg: DictConfig, size: int) -> DictConfig:
    """A copy of the configuration with that size."""
    smaller = cfg.copy()
    OmegaConf.update(smaller, "train.micro_batch_size", size)
    return smaller


def with_less_memory(
    attempt: Callable[[DictConfig], None], cfg: DictConfig, on_smaller: Callable[[int, str], None]
) -> None:
    """Call `attempt(cfg)`; with `train.on_oom=halve` again, each time with `train.micro_batch_size` halved.

    Args:
        on_smaller: told the new size and what was raised, before the next attempt.

    Raises:
        Whatever `attempt` raises, out of memory too where it must not or cannot be tried with less.
    """
    while True:
        try:
            return attempt(cfg)
        except Exception as error:
            size = halved(cfg) if cfg.train.on_oom == "halve" and is_out_of_memory(error) else None
            if size is None:
                raise
            told = " ".join(f"{type(error).__name__}: {error}".split())
        collect_garbage()  # now that the frames of the failed attempt are gone
        log.warning("out of memory, again with train.micro_batch_size=%d (train.on_oom=halve): %s", size, told)
        on_smaller(size, told)
        cfg = with_micro_batch_size(cfg, size)


def collect_garbage() -> None:
    """Free what a failed attempt has left in reference cycles, and give the GPU's cached blocks back to the driver."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
