"""The allocator of torch's tensors on the CPU: which it is, and whether it keeps or returns freed memory.

glibc's malloc keeps small blocks in its heap and gives every large one a mapping of its own, which is returned when the
block is freed. The size that separates them adapts at run time unless it is set. torch's aarch64 builds from 2.10 on
contain mimalloc (pytorch#164741), which ignores glibc's settings; its own are read from the environment when torch is
imported (pytorch#192078). Importing this module does not import torch.
"""

import ctypes
import importlib.util
import mmap
import os
import platform
from collections.abc import Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4  # malloc.h
_LARGEST = 2**31 - 1
_MAPPINGS = 65536  # glibc's default of M_MMAP_MAX
_KEEPING = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _LARGEST, _M_TOP_PAD: 64 * 2**20}
_SETTINGS = (
    *("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_"),
    *("GLIBC_TUNABLES", "MIMALLOC_PURGE_DELAY", "MIMALLOC_PURGE_DECOMMITS"),
)
_PROBE = 32 * 2**20

_freed: str | None = None  # the last result of `returns_freed_memory`: `kept` or `returned`


@cache
def name() -> str:
    """Return the allocator: one named in LD_PRELOAD, `mimalloc` if torch's library has it, `glibc` or `unknown`."""
    for preloaded in ("jemalloc", "tcmalloc", "mimalloc"):
        if preloaded in os.environ.get("LD_PRELOAD", ""):
            return preloaded
    if (library := _library()) is not None and b"mimalloc" in library.read_bytes():
        return "mimalloc"
    return "glibc" if platform.libc_ver()[0] == "glibc" else "unknown"


def provenance() -> dict[str, object]:
    """Return the allocator's name, its settings in the environment, and what `returns_freed_memory` found last."""
    settings = {variable: os.environ[variable] for variable in _SETTINGS if variable in os.environ}
    return {"name": name(), **({"environment": settings} if settings else {}), **({"freed": _freed} if _freed else {})}


def keep_freed_memory() -> bool:
    """Keep freed memory in this process from now on, so that the next step finds its pages mapped.

    Otherwise every step returns its wide tensors to the system and pays for a page fault per page when it asks for them
    again: several per cent of a step on a CPU. Settings in the environment take precedence.

    Returns:
        Whether freed memory is kept, as measured afterwards.
    """
    _tell_glibc(_KEEPING)
    return not returns_freed_memory()


def return_large_blocks(size: int) -> bool:
    """Have blocks of `size` bytes and more returned to the system when freed; smaller ones are reused in the heap.

    A large block that fits into a hole of the heap stays there as well; only a process that once kept freed memory has
    such holes. Settings in the environment take precedence.

    Returns:
        Whether this took effect, as measured afterwards.
    """
    _tell_glibc({_M_MMAP_MAX: _MAPPINGS, _M_MMAP_THRESHOLD: size, _M_TRIM_THRESHOLD: _LARGEST, _M_TOP_PAD: 0})
    return returns_freed_memory(size)


def returns_freed_memory(size: int = _PROBE) -> bool:
    """Return whether resident memory falls when a tensor of `size` bytes is freed. Imports torch."""
    global _freed
    import torch

    before = _resident()
    held = torch.ones(size, dtype=torch.uint8)
    grown = _resident() - before
    del held
    found = grown < size / 2  # it was placed in memory that an earlier tensor left
    returned = not found and _resident() - before < grown / 2
    _freed = "returned" if returned else "kept"
    return returned


def long_lived(shape: Sequence[int], dtype: "torch.dtype", device: "torch.device") -> "torch.Tensor":
    """Return a tensor, without set values, for what outlives many others; on a CPU it has a mapping of its own.

    In the heap it would lie among shorter-lived tensors, and when these are freed leave holes that no later tensor
    fits.
    """
    import torch

    size = prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < mmap.PAGESIZE:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(shape)


def release_memory() -> int:
    """Give memory that is free now back to the system, for other processes; return how many bytes that was."""
    before = _resident()
    for library, function, argument in ((None, "malloc_trim", 0), (_library(), "mi_collect", 1)):
        try:
            getattr(ctypes.CDLL(None if library is None else str(library)), function)(argument)
        except (AttributeError, OSError):
            continue
    return max(0, before - _resident())


class HeapTrimmer:
    """Returns free memory to the system whenever this process has grown by `limit` bytes since it last did.

    Long-lived blocks among many short-lived ones leave holes that no later block fits, so the heap grows from step to
    step. Returning all free memory takes a few milliseconds, and a page fault for each page that is used again.
    """

    def __init__(self, limit: int):
        self.limit, self._resident = limit, _resident()

    def trim_if_grown(self) -> None:
        """Give free memory back if the process has grown; to be called several times in a training step."""
        if _resident() - self._resident > self.limit:
            release_memory()
            self._resident = _resident()


def _tell_glibc(options: dict[int, int]) -> None:
    if any(variable in os.environ for variable in _SETTINGS):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    for option, value in options.items():
        mallopt(option, value)


def _resident() -> int:
    return psutil.Process().memory_info().rss


@cache
def _library() -> Path | None:
    """Return the path of the library in which torch allocates memory."""
    found = importlib.util.find_spec("torch")
    files = sorted(Path(found.origin).parent.glob("lib/libc10.*")) if found is not None and found.origin else []
    return files[0] if files else None
