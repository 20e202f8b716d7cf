"""What the linear layers in scope keep of their inputs for the backward pass, measured on real saved tensors.

The counterpart of the stored inputs in `wasi.measure.accounting`, which are computed from shapes. The two agree
but where the accounting describes another thing than what happens:

- it counts the input of packed query, key and value three times; here one storage counts once, whoever shares it;
- it counts core and bases; what a layer saves besides to move its bases on counts here only;
- it counts an input for every dense linear; one that is frozen keeps none;
- it knows of no checkpointing, `lean` or accumulation, under which less is kept (see `stored_inputs_mib`).
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from wasi.layers.activation import TuckerState
from wasi.layers.base import LowRankLayer
from wasi.measure.accounting import PRODUCTS, site_weights
from wasi.models.structure import linear_sites

_MIB = 1024**2


def stored_inputs_mib(
    model: nn.Module, scope: str, step: Callable[[Tensor, Tensor], object], images: Tensor, labels: Tensor
) -> float:
    """`memory/stored_inputs_mib`: MiB that the linears in `scope` keep of their inputs in a whole training step.

    Counted are the storages, each once and whole, of what these layers saved for the backward pass and of what is
    alive when the model's forward pass ends: of a dense linear its input, of a low-rank layer all that it saves
    but weights: the input, or core and bases (in a step that moves the bases, as much again as these); what an
    adapter sees. With accumulation that is the largest
    micro-batch's. What a checkpointed block computes, or one under `lean`, is not alive then and does not count,
    nor do the inputs of blocks that are kept in its place, which are no linear's.

    Args:
        step: trains `model`, a step further, on images and labels.
    """
    with StoredInputs(model, scope) as stored:
        step(images, labels)
    return stored.mib


class StoredInputs:
    """Follows the forward passes of `model` inside it, for `stored_inputs_mib` of a step that serves more than that.

    highest: bytes kept at the end of the pass that kept most.
    """

    def __init__(self, model: nn.Module, scope: str):
        self.highest = 0
        self._model = model
        self._storages: list[weakref.ref] = []
        self._saved: list[torch.UntypedStorage] = []  # by the operator about to run
        self._casts: dict[int, tuple[Tensor, int]] = {}  # a weight's copy in autocast's type, and the weight's key
        self._depth = 0  # inside a low-rank layer
        self._layers: list[LowRankLayer] = []
        dense = []
        for site in linear_sites(model, scope):
            module = None if site.name.endswith(".in_proj") else model.get_submodule(site.name)
            if isinstance(module, LowRankLayer):
                self._layers.append(module)
            else:
                dense += site_weights(model, site)
        self._dense = _keys(dense)
        parts = (part for layer in self._layers for part in layer.modules() if not isinstance(part, TuckerState))
        held = (tensor for part in parts for tensor in part.buffers(recurse=False))
        self._weights = _keys([*model.parameters(), *held])

    @property
    def mib(self) -> float:
        return self.highest / _MIB

    def __enter__(self) -> "StoredInputs":
        with ExitStack() as stack:
            stack.enter_context(self._hooks())
            stack.enter_context(saved_tensors_hooks(self._pack, lambda tensor: tensor))
            stack.enter_context(_Operators(self._runs, self._ran))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._stack.close()

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        handles = [
            self._model.register_forward_pre_hook(lambda *_: self._storages.clear()),
            self._model.register_forward_hook(lambda *_: self._forward_ends()),
        ]
        for layer in self._layers:
            handles.append(layer.register_forward_pre_hook(lambda *_: self._enters(1)))
            # Checkpointing leaves a layer by an exception where it has all that it repeats for.
            handles.append(layer.register_forward_hook(lambda *_: self._enters(-1), always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

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
        """Autograd saves an operator's inputs just before it runs: what came since the last one is of this one."""
        if func in PRODUCTS:
            *_, x, weight = args
            if self._weight_key(weight.untyped_storage()) in self._dense:
                key = x.untyped_storage()._cdata
                for storage in self._saved:
                    if storage._cdata == key:
                        self._keep(storage)
        self._saved.clear()

    def _ran(self, func, args: tuple, result: object) -> None:
        """Note the copies of weights that autocast makes, and hold them, so that no other storage takes their keys."""
        if func is torch.ops.aten._to_copy.default and isinstance(result, Tensor):
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
    """Tells `runs` of every operator below autograd before it runs, and `ran` of it, with its result, after that."""

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
