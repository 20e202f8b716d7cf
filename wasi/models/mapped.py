"""Dense weights in a file that is mapped into memory, so that they take room only while something reads or writes them.

A method that replaces dense weights needs each of them for a moment: while it is made, in its block's forward pass over
calibration data, and when it is factored. In between its pages belong to the file.
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
    with tempfile.TemporaryFile(dir=_FOLDER if os.access(_FOLDER, os.W_OK) else None) as file:

        def in_file(parameter: nn.Parameter) -> nn.Parameter:
            if not hasattr(parameter, _MAPPING):
                let_go(made)
                parameter = _mapped(parameter, file.fileno())
                if hasattr(parameter, _MAPPING):
                    made.append(parameter)
            return parameter

        try:
            with registered_as(in_file):
                yield
        finally:
            let_go(made)


def let_go(parameters: Iterable[Tensor]) -> None:
    """Their pages, where they are mapped, leave this process; the next access brings them back."""
    for parameter in parameters:
        if (mapping := getattr(parameter, _MAPPING, None)) is not None:
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


def _mapped(parameter: nn.Parameter, file: int) -> nn.Parameter:
    size = parameter.numel() * parameter.element_size()
    if size < _SMALLEST or parameter.device.type != "cpu":
        return parameter
    start = -(-os.fstat(file).st_size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
    try:
        os.posix_fallocate(file, start, size)  # a page that a full disk has no room for would kill the process
        mapping = mmap.mmap(file, size, mmap.MAP_SHARED, offset=start)
    except OSError:
        return parameter
    data = torch.frombuffer(mapping, dtype=parameter.dtype).view(parameter.shape).copy_(parameter.detach())
    parameter = nn.Parameter(data, parameter.requires_grad)
    setattr(parameter, _MAPPING, mapping)
    return parameter
