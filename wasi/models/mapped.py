"""Memory-mapped dense weights, which are resident in memory only while they are read or written.

A method that replaces dense weights needs each of them only briefly: when it is created, in its block's forward pass
over calibration data, and when it is factored. In between, its pages are dropped from the process and remain in the
file. The same holds for large sums over calibration data, one or two matrices per weight, between chunks of images.
"""

import mmap
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from wasi.models.structure import find_blocks

SUMS_FROM = 2**21  # bytes: smaller sums are not kept in a file, see `in_file`
_SMALLEST = 2**20  # bytes: smaller parameters are not mapped
_MAPPING, _HOOKS = "mapping", "mapping_hooks"  # attributes of a parameter, and of the model
_FOLDER = "/var/tmp"  # on a disk by convention, while /tmp may be memory itself


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
        nn.Module.register_parameter = register  # type: ignore[method-assign]  # as above


@contextmanager
def mapped_weights() -> Iterator[None]:
    """Within this context, large parameters that modules register are moved to a memory-mapped unnamed file.

    Values are kept. Where mapping is not possible (not on Linux, disk full), parameters stay in ordinary memory.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    made: list[nn.Parameter] = []
    with _temporary() as file:

        def mapped(parameter: nn.Parameter) -> nn.Parameter:
            if not hasattr(parameter, _MAPPING):
                release_pages(made)
                data = _mapped(parameter.detach(), file)
                if hasattr(data, _MAPPING):
                    parameter = nn.Parameter(data, parameter.requires_grad)
                    setattr(parameter, _MAPPING, getattr(data, _MAPPING))
                    made.append(parameter)
            return parameter

        try:
            with replacing_registered(mapped):
                yield
        finally:
            release_pages(made)


def in_file(sums: Tensor) -> Tensor:
    """Return `sums` copied to a memory-mapped unnamed file, to be added to in place; see `release_pages`.

    Tensors smaller than `SUMS_FROM` bytes, and those that cannot be mapped, are returned as they are.
    """
    if sums.nbytes < SUMS_FROM or not sys.platform.startswith("linux"):
        return sums
    with _temporary() as file:
        found = _mapped(sums, file)
    release_pages([found])
    return found


def release_pages(tensors: Iterable[Tensor]) -> None:
    """Release the pages of memory-mapped tensors from this process; the next access reads them from the file again.

    Other tensors are ignored.
    """
    for tensor in tensors:
        if (mapping := getattr(tensor, _MAPPING, None)) is not None:
            mapping.madvise(mmap.MADV_DONTNEED)  # a shared file mapping, so no data is lost


def release_pages_after_each_block(model: nn.Module) -> nn.Module:
    """Release the pages of each block's weights after its forward pass, from now on until `into_memory`."""
    hooks = [
        block.register_forward_hook(lambda module, *_: release_pages(module.parameters()))
        for block in find_blocks(model).values()
    ]
    setattr(model, _HOOKS, hooks)
    return model


@torch.no_grad()
def into_memory(model: nn.Module) -> nn.Module:
    """Copy the weights that are still memory-mapped, because no method replaced them, into ordinary memory."""
    for hook in getattr(model, _HOOKS, ()):
        hook.remove()
    for parameter in model.parameters():
        if hasattr(parameter, _MAPPING):
            parameter.data = parameter.data.clone()
            release_pages([parameter])
            delattr(parameter, _MAPPING)
    return model


@contextmanager
def _temporary() -> Iterator[int | None]:
    """Open an unnamed temporary file, on a disk rather than in memory where possible.

    Yields:
        Its descriptor, or None where no such file can be made.
    """
    folder = _FOLDER if os.access(_FOLDER, os.W_OK) else None
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder)).fileno()
        except OSError:
            file = None
        yield file


def _mapped(tensor: Tensor, file: int | None) -> Tensor:
    """Return a copy mapped from the end of the file, or the tensor itself if it is small or cannot be mapped."""
    size = tensor.numel() * tensor.element_size()
    if file is None or size < _SMALLEST or tensor.device.type != "cpu":
        return tensor
    start = -(-os.fstat(file).st_size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
    try:
        os.posix_fallocate(file, start, size)  # writing a mapped page to a full disk would raise SIGBUS
        mapping = mmap.mmap(file, size, mmap.MAP_SHARED, offset=start)
    except OSError:
        return tensor
    data = torch.frombuffer(mapping, dtype=tensor.dtype).view(tensor.shape).copy_(tensor)
    setattr(data, _MAPPING, mapping)
    return data
