"""Memory that the linear layers in scope use to save their inputs for backward, measured on the saved tensors.

The counterpart of the stored inputs in `wasi.measure.accounting`, which are computed from shapes. The two agree except
where the accounting differs from what happens:

- it counts the input of packed query, key and value three times; here a shared storage counts once;
- it counts core and bases only; here, what a layer saves for an update of its bases counts, too;
- it counts an input for every dense layer; a frozen layer saves none;
- it does not consider checkpointing, `lean` or accumulation, with which less is saved (see `StoredInputs`).
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from wasi.layers.activation import TuckerState
from wasi.layers.base import LowRankLayer
from wasi.measure.accounting import PRODUCTS, site_weights
from wasi.measure.rss import MIB
from wasi.models.structure import linear_sites, site_module


class StoredInputs:
    """A context manager that measures the inputs saved by the linear layers in `scope` in training steps within it.

    Afterwards, `mib` is `memory/stored_inputs_mib`, and `highest` holds the bytes saved at the end of the forward pass
    that saved most. Counted are the whole storages, each once, of tensors that these layers saved for backward and that
    are alive at the end of the model's forward pass. Of a dense layer that is its input; of a low-rank layer everything
    it saves except weights: its input, or core and bases (twice the bases in a step that updates them), and the inputs
    of adapters. With accumulation, the largest micro-batch counts. What checkpointed blocks, or those under `lean`,
    compute is not alive then, and the block inputs saved instead are not those of a linear layer: neither counts.
    """

    def __init__(self, model: nn.Module, scope: str):
        self.highest = 0
        self._model = model
        self._storages: list[weakref.ref] = []
        self._saved: list[torch.UntypedStorage] = []  # by the next operator
        self._casts: dict[int, tuple[Tensor, int]] = {}  # of autocast's copy -> the copy, its weight's key
        self._depth = 0  # of nested calls of low-rank layers
        self._layers: list[LowRankLayer] = []
        dense = []
        for site in linear_sites(model, scope):
            layer = site_module(model, site)
            if isinstance(layer, LowRankLayer):
                self._layers.append(layer)
            else:
                dense += site_weights(model, site)
        self._dense = _keys(dense)
        parts = (part for layer in self._layers for part in layer.modules() if not isinstance(part, TuckerState))
        held = (tensor for part in parts for tensor in part.buffers(recurse=False))
        self._weights = _keys([*model.parameters(), *held])

    @property
    def mib(self) -> float:
        """`highest` in MiB."""
        return self.highest / MIB

    def __enter__(self) -> "StoredInputs":
        with ExitStack() as stack:
            for handle in self._hooks():
                stack.enter_context(handle)
            stack.enter_context(saved_tensors_hooks(self._pack, lambda tensor: tensor))
            stack.enter_context(_Operators(self._runs, self._ran))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._stack.close()

    def _hooks(self) -> Iterator[RemovableHandle]:
        yield self._model.register_forward_pre_hook(lambda *_: self._storages.clear())
        yield self._model.register_forward_hook(lambda *_: self._forward_ends())
        for layer in self._layers:
            yield layer.register_forward_pre_hook(lambda *_: self._enters(1))
            # Checkpointing ends a recomputation by an exception within a layer; hence `always_call`.
            yield layer.register_forward_hook(lambda *_: self._enters(-1), always_call=True)

    def _enters(self, change: int) -> None:
        self._depth += change

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if self._depth:
            self._keep(storage)
        else:
            self._saved.append(storage)
        return tensor

    def _runs(self, func, args: tuple) -> None:
        """Before an operator runs: keep what was saved for it if it multiplies with a dense weight in scope.

        Autograd saves an operator's inputs just before running it, so what was saved since the last one is its own.
        """
        if func in PRODUCTS:
            *_, x, weight = args
            if self._weight_key(weight.untyped_storage()) in self._dense:
                key = x.untyped_storage()._cdata
                for storage in self._saved:
                    if storage._cdata == key:
                        self._keep(storage)
        self._saved.clear()

    def _ran(self, func, args: tuple, result: object) -> None:
        """After an operator: note copies of weights made by autocast, and hold them, so that keys are not reused."""
        if func is torch.ops.aten._to_copy.default and isinstance(args[0], Tensor) and isinstance(result, Tensor):
            key = args[0].untyped_storage()._cdata
            if key in self._weights:
                self._casts[result.untyped_storage()._cdata] = (result, key)

    def _weight_key(self, storage: torch.UntypedStorage) -> int:
        _, key = self._casts.get(storage._cdata, (None, storage._cdata))
        return key

    def _keep(self, storage: torch.UntypedStorage) -> None:
        if self._weight_key(storage) not in self._weights:
            self._storages.append(weakref.ref(storage))

    def _forward_ends(self) -> None:
        self._saved.clear()
        self._casts.clear()
        alive = {s._cdata: s.nbytes() for s in (ref() for ref in self._storages) if s is not None}
        self.highest = max(self.highest, sum(alive.values()))


class _Operators(TorchDispatchMode):
    """Calls `runs(func, args)` before, and `ran(func, args, result)` after every operator below autograd."""

    def __init__(self, runs: Callable, ran: Callable):
        super().__init__()
        self._runs, self._ran = runs, ran

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._runs(func, args)
        result = func(*args, **(kwargs or {}))
        self._ran(func, args, result)
        return result


def _keys(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors}
