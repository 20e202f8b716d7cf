"""Log of all allocations and frees of tensor storages, from which peak memory is computed by category ("part").

The category of a storage is often known only after the peak (when a tensor is saved for backward, or a product becomes
a gradient), so the log keeps events, and the peak is split by the final labels.
"""

import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from types import FrameType

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Of several labels of a storage, the first in this order holds: a parameter saved for backward is a weight.
PARTS = ("weights", "optimizer", "gradients", "activations", "temporary")
_RANK = {part: rank for rank, part in enumerate(PARTS)}

_WRAPPERS = ("_compile.py", "eval_frame.py")  # files of torch's frames around a dispatch mode's method


class _Block:
    """One storage during its life: its current size in bytes and the strongest label so far."""

    __slots__ = ("nbytes", "part", "ref")

    def __init__(self, nbytes: int, part: str):
        self.nbytes, self.part = nbytes, part
        self.ref: weakref.ref | None = None


@dataclass
class _EngineSum:
    """A sum of gradients by the autograd engine: its storage, and the operands' storages that it may replace."""

    storage: torch.UntypedStorage
    operands: set[int]


class StorageLog(TorchDispatchMode):
    """A dispatch mode that logs allocations, resizes and frees of the storages of strided tensors.

    It observes the results of all operators below autograd, in forward and backward passes; storages that were created
    otherwise are logged from their first use on. Workspace that a kernel allocates and frees within one operator is
    not observed.

    Args:
        device_type: "cpu" or "cuda"; tensors elsewhere are not counted.
        on_backward: called when a backward pass begins, before its first result is logged.
    """

    def __init__(self, device_type: str, on_backward: Callable[[], None]):
        super().__init__()
        self.device_type = device_type
        self.alive: dict[int, _Block] = {}
        self.found = 0  # bytes of storages that no operator was seen to make, when they were first logged
        self._events: list[tuple[_Block, int]] = []
        self._on_backward = on_backward
        self._in_backward = False
        self._closed = False
        self._sum: _EngineSum | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self._settle_sum()
        operands = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        for tensor in operands:
            # An unknown operand was created outside any operator: input data, such as the batch.
            self.see(tensor, "activations")
        result = func(*args, **kwargs)
        self._notice_backward()
        if _writes(func):
            for tensor in operands:
                self.see(tensor, "temporary")
        if self._in_backward and func is torch.ops.aten.add.Tensor and _called_by_engine():
            self._begin_sum(operands, result)
        else:
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor):
                    self.see(tensor, "temporary")
        return result

    def see(self, tensor: Tensor, part: str) -> _Block | None:
        """Log the tensor's storage as `part` if it is new, and a change of its size otherwise.

        Returns:
            Its block, or None for a tensor that is not followed.
        """
        if self._closed or tensor.device.type != self.device_type or tensor.layout != torch.strided:
            return None
        storage = tensor.untyped_storage()
        block = self.alive.get(storage._cdata)
        if block is None:
            self.found += 0 if part == "temporary" else storage.nbytes()
            return self._add(storage, part)
        self.resized(storage)
        return block

    def label(self, tensors: Iterable[Tensor], part: str) -> None:
        """Label the storages of `tensors` as `part`, for their whole life, unless they have a stronger label."""
        self._settle_sum()
        for tensor in tensors:
            block = self.see(tensor, part)
            if block is not None and _RANK[part] < _RANK[block.part]:
                block.part = part

    def resized(self, storage: torch.UntypedStorage) -> None:
        """Log a change of the size of a known storage, if there is one."""
        block = self.alive.get(storage._cdata)
        if block is not None and storage.nbytes() != block.nbytes:
            self._events.append((block, storage.nbytes() - block.nbytes))
            block.nbytes = storage.nbytes()

    def peak(self) -> dict[str, int]:
        """Return the bytes per part at the moment when their sum was largest."""
        self._settle_sum()
        total = highest = at = 0
        for position, (_, change) in enumerate(self._events, start=1):
            total += change
            if total > highest:
                highest, at = total, position
        parts = dict.fromkeys(PARTS, 0)
        for block, change in self._events[:at]:
            parts[block.part] += change
        return parts

    def totals(self) -> list[int]:
        """Return the total bytes of live storages after each event, in order."""
        self._settle_sum()
        return list(accumulate(change for _, change in self._events))

    def close(self) -> None:
        """Stop logging: later frees of live storages are not recorded."""
        self._closed = True
        self.alive.clear()

    def _add(self, storage: torch.UntypedStorage, part: str) -> _Block:
        block = _Block(storage.nbytes(), part)
        self._follow(block, storage)
        self._events.append((block, block.nbytes))
        return block

    def _follow(self, block: _Block, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        # The Python object of a storage lives exactly as long as the storage, whoever owns it.
        block.ref = weakref.ref(storage, lambda _: self._free(key))
        self.alive[key] = block

    def _free(self, key: int) -> None:
        if self._closed:
            return
        if self._sum is not None and key in self._sum.operands:
            self._follow(self.alive.pop(key), self._sum.storage)
            self._sum = None
        else:
            self._settle_sum()
            block = self.alive.pop(key)
            self._events.append((block, -block.nbytes))

    def _begin_sum(self, operands: list[Tensor], result: Tensor) -> None:
        """Note a sum by which the autograd engine adds up the gradients of a tensor that was used twice.

        The engine adds in place if it holds the last reference to an operand, except under a dispatch mode such as
        this one. So, if an operand that is no view is freed before anything else happens, the sum is logged as having
        replaced it in place (`_free`).
        """
        storage = result.untyped_storage()
        whole = [t.untyped_storage() for t in operands if not t._is_view()]
        self._sum = _EngineSum(storage, {s._cdata for s in whole if s.nbytes() == storage.nbytes()})

    def _settle_sum(self) -> None:
        """Log a pending sum as a storage of its own, as no operand was freed."""
        if self._sum is not None:
            storage, self._sum = self._sum.storage, None
            if storage._cdata not in self.alive:
                self._add(storage, "temporary")

    def _notice_backward(self) -> None:
        """Call `on_backward` on the first operator of a backward pass."""
        inside = torch._C._current_graph_task_id() != -1
        if inside and not self._in_backward:
            self._on_backward()
        self._in_backward = inside


def _writes(func) -> bool:
    schema = getattr(func, "_schema", None)
    return schema is None or schema.is_mutable


def _called_by_engine() -> bool:
    """Return whether the current operator was called by the autograd engine, not by Python code such as a Function."""
    frame: FrameType | None = sys._getframe(1).f_back
    while frame is not None and frame.f_code.co_filename.endswith(_WRAPPERS):
        frame = frame.f_back
    # For a GPU the engine has a thread of its own, in which no Python code calls it.
    return frame is None or frame.f_code.co_name == "_engine_run_backward"
