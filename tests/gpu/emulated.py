"""An emulated accelerator: what runs on a GPU can be run without one, and breaks as it would there.

Its tensors hold their values on the CPU and say that they are on torch's device `meta`, so all code takes the branches
that are not for CPUs. An operation on such a tensor and a tensor of the CPU is an error, as on a GPU; copies, pointwise
operations with a number, and indices of the CPU are not. What makes the host wait for a GPU is counted: values that are
read, sizes that depend on values, decompositions whose success is checked, and copies that are not `non_blocking`.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from traceback import extract_stack
from unittest.mock import patch

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
_COPIES = ("aten._to_copy", "aten.copy_", "aten._foreach_copy_")
_INDEXING = ("aten.index.", "aten.index_put")
# Of the decompositions among these, torch documents that they synchronize a CUDA device; QR is counted to be safe.
WAITING = (
    "aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten._unique", "aten.unique", "aten.bincount",
    "aten.equal", "aten._linalg_check_errors", "aten._linalg_eigh", "aten.linalg_eig", "aten._linalg_svd",
    "aten.linalg_cholesky.", "aten.linalg_qr", "aten._linalg_solve", "aten.linalg_inv.", "aten.linalg_lstsq",
)  # fmt: skip


class DeviceTensor(torch.Tensor):
    """A tensor on the emulated device, with `values` on the CPU."""

    values: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: torch.Tensor):
        options = {"strides": values.stride(), "storage_offset": values.storage_offset(), "dtype": values.dtype}
        found = torch.Tensor._make_wrapper_subclass(cls, values.size(), device=DEVICE, **options)
        found.values = values
        return found

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _computed(function, args, kwargs or {})

    @property
    def data(self):
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, other):
        torch.Tensor.data.__set__(self, other)
        self.values = other.values


def _values(value):
    return value.values if isinstance(value, DeviceTensor) else value


def _computed(function, args, kwargs):
    """Compute on the values; the result is on the device if an argument or `device=` is."""
    name, to = str(function), kwargs.get("device")
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    here = {id(tensor.values): tensor for tensor in tensors if isinstance(tensor, DeviceTensor)}
    there = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor)]
    if name.startswith(_INDEXING) and isinstance(args[0], DeviceTensor):
        there = [tensor for tensor in there if not any(tensor is index for index in args[1])]
    elif torch.Tag.pointwise in function.tags:
        there = [tensor for tensor in there if tensor.dim()]
    if here and there and not name.startswith(_COPIES):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")
    options = tree_map(_values, kwargs) | ({} if to is None else {"device": torch.device("cpu")})
    result = function(*tree_map(_values, args), **options)
    if not (torch.device(to) == DEVICE if to is not None else here):
        return result
    return tree_map(lambda r: here.get(id(r), DeviceTensor(r)) if isinstance(r, torch.Tensor) else r, result)


class _Emulation(TorchDispatchMode):
    """Sees operations without a device's tensor, too: those that make one."""

    def __init__(self, waits: Counter):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        here = [isinstance(tensor, DeviceTensor) for tensor in tensors]
        to = kwargs.get("device")
        on_device = any(here) or (to is not None and torch.device(to) == DEVICE)
        crossing = bool(tensors) and (to is not None or not all(here))
        if on_device and self._waits(function, args, kwargs, crossing):
            self.waits[place()] += 1
        return _computed(function, args, kwargs) if on_device else function(*args, **kwargs)

    def _waits(self, function, args, kwargs, crossing):
        name = str(function)
        if name.startswith(_INDEXING):
            return any(isinstance(index, torch.Tensor) and _makes_wait(index) for index in args[1])
        non_blocking = kwargs.get("non_blocking") or (name.startswith("aten.copy_") and args[2:] == (True,))
        return name.startswith(WAITING) or (crossing and name.startswith(_COPIES) and not non_blocking)


def _makes_wait(index: torch.Tensor) -> bool:
    """Whether an index must be copied to the device, or counted there."""
    return not isinstance(index, DeviceTensor) or index.dtype == torch.bool


def place() -> str:
    """File and line of the innermost function of this project."""
    frames = [frame for frame in extract_stack() if "wasi" in Path(frame.filename).parts]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside"


def moved(model: nn.Module) -> nn.Module:
    """Move parameters and buffers to the device; shared ones stay shared."""
    found: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None and not isinstance(tensor, DeviceTensor):
                    copy = DeviceTensor(tensor.detach().clone())
                    is_parameter = isinstance(tensor, nn.Parameter)
                    copy = nn.Parameter(copy, tensor.requires_grad) if is_parameter else copy
                    own[name] = found.setdefault(id(tensor), copy.requires_grad_(tensor.requires_grad))
    return model


@contextmanager
def without_autocast() -> Iterator[None]:
    """Inside, autocast is off for every device, also for one that it does not know."""
    with (
        patch("torch.is_autocast_enabled", lambda kind: False),
        patch("torch.get_autocast_dtype", lambda kind: torch.float32),
        patch("torch.autocast", lambda *args, **options: nullcontext()),
    ):
        yield


@contextmanager
def emulated() -> Iterator[Counter]:
    """Inside, `DEVICE` is an accelerator without autocast; yields how often the host waited for it, by place."""
    waits: Counter[str] = Counter()
    to, tolist, numpy = nn.Module.to, torch.Tensor.tolist, torch.Tensor.numpy

    def module_to(module, *args, **kwargs):
        return moved(module) if args and args[0] == DEVICE else to(module, *args, **kwargs)

    def listed(tensor):
        if isinstance(tensor, DeviceTensor):
            waits[place()] += 1
        return tolist(_values(tensor))

    def array(tensor, **options):
        assert not isinstance(tensor, DeviceTensor), "numpy cannot read a device"
        return numpy(tensor, **options)

    with (
        patch.object(nn.Module, "to", module_to),
        patch.object(torch.Tensor, "tolist", listed),
        patch.object(torch.Tensor, "numpy", array),
        without_autocast(),
        _Emulation(waits),
    ):
        yield waits
