"""Dense weights in a file that is mapped into memory, so that they take room only while something reads or writes them.

A method that replaces dense weights needs each of them for a moment: while it is made, in its block's forward pass over
calibration data, and when it is factored. In between its pages belong to the file. So do those of large sums over
calibration data, a matrix or two for every weight, between one chunk of images and the next.
"""

import mmap
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wasi.models.registered import registered_as
from wasi.models.structure import find_blocks

SUMS_FROM = 2**21  # bytes from which sums over data are kept in a file, see `in_file`
_SMALLEST = 2**20  # bytes: less is not worth a mapping of its own
_MAPPING, _HOOKS = "mapping", "mapping_hooks"  # attributes of a parameter, and of the model
_FOLDER = "/var/tmp"  # on a disk by convention, while /tmp may be memory itself


@contextmanager
def mapped_weights() -> Iterator[None]:
    """Large parameters that modules register inside get memory of a file without a name, with the same values.

    Where that cannot be had (another system than Linux, a full disk), they are made as usual.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    made: list[nn.Parameter] = []
    with _temporary() as file:

        def mapped(parameter: nn.Parameter) -> nn.Parameter:
            if not hasattr(parameter, _MAPPING):
                let_go(made)
                data = _mapped(parameter.detach(), file.fileno())
                if hasattr(data, _MAPPING):
                    parameter = nn.Parameter(data, parameter.requires_grad)
                    setattr(parameter, _MAPPING, getattr(data, _MAPPING))
                    made.append(parameter)
            return parameter

        try:
            with registered_as(mapped):
                yield
        finally:
            let_go(made)


def in_file(sums: Tensor) -> Tensor:
    """The same values in a file without a name, whose pages leave this process with `let_go`, to be added to in place.

    Sums smaller than `SUMS_FROM`, and those that cannot be had in a file, are returned as they are.
    """
    if sums.nbytes < SUMS_FROM or not sys.platform.startswith("linux"):
        return sums
    with _temporary() as file:
        found = _mapped(sums, file.fileno())
    let_go([found])
    return found


def let_go(tensors: Iterable[Tensor]) -> None:
    """Their pages, where they are mapped, leave this process; the next access brings them back."""
    for tensor in tensors:
        if (mapping := getattr(tensor, _MAPPING, None)) is not None:
            mapping.madvise(mmap.MADV_DONTNEED)  # of a shared mapping of a file: nothing is lost


def let_go_after_each_block(model: nn.Module) -> nn.Module:
    """From now on, until `into_memory`, a block's weights leave after its forward pass."""
    hooks = [
        block.register_forward_hook(lambda module, *_: let_go(module.parameters()))
        for block in find_blocks(model).values()
    ]
    setattr(model, _HOOKS, hooks)
    return model


@torch.no_grad()
def into_memory(model: nn.Module) -> nn.Module:
    """Weights that are still mapped, as ordinary tensors again: those that nothing has replaced, and will train."""
    for hook in getattr(model, _HOOKS, ()):
        hook.remove()
    for parameter in model.parameters():
        if hasattr(parameter, _MAPPING):
            parameter.data = parameter.data.clone()
            let_go([parameter])
            delattr(parameter, _MAPPING)
    return model


def _temporary():
    """An open file without a name, on a disk where that can be had."""
    return tempfile.TemporaryFile(dir=_FOLDER if os.access(_FOLDER, os.W_OK) else None)


def _mapped(tensor: Tensor, file: int) -> Tensor:
    """A copy at the end of the file, or the tensor itself where a mapping is not worth it or cannot be had."""
    size = tensor.numel() * tensor.element_size()
    if size < _SMALLEST or tensor.device.type != "cpu":
        return tensor
    start = -(-os.fstat(file).st_size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
    try:
        os.posix_fallocate(file, start, size)  # a page that a full disk has no room for would kill the process
        mapping = mmap.mmap(file, size, mmap.MAP_SHARED, offset=start)
    except OSError:
        return tensor
    data = torch.frombuffer(mapping, dtype=tensor.dtype).view(tensor.shape).copy_(tensor)
    setattr(data, _MAPPING, mapping)
    return data
