"""Peak memory of live tensors in a training step or an inference pass, exact to the byte, by category."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from wasi.measure.patches import every_saving_hook, run_first, storage_resizes
from wasi.measure.rss import MIB
from wasi.measure.storages import StorageLog
from wasi.models.modes import eval_mode, without_fast_path
from wasi.training.compile import uncompiled


@dataclass(frozen=True)
class MemoryPeak:
    """Bytes of live tensors at the peak, by category."""

    weights: int  # parameters and buffers of the model
    gradients: int  # what is or becomes the `.grad` of a parameter or of a layer's coordinates
    optimizer: int  # tensors in the optimizer's state
    activations: int  # the batch, and tensors that live from the forward to the backward pass
    temporary: int  # everything else

    @property
    def total(self) -> int:
        """The sum of the five categories."""
        return sum(getattr(self, field.name) for field in fields(self))

    def train_metrics(self) -> dict[str, float]:
        """Return `memory/train_peak_mib` and its five categories `memory/train_*_mib`, as in result.json."""
        parts = {f"memory/train_{field.name}_mib": getattr(self, field.name) / MIB for field in fields(self)}
        return {"memory/train_peak_mib": self.total / MIB, **parts}


class LiveMemory:
    """A context manager that measures the peak memory of live tensors within it.

        with LiveMemory(model, optimizer, inputs=(images, labels)) as memory:
            step(images, labels)
        memory.peak

    An optimizer that allocates its state in its first step reaches its full size in the second, so run two steps.
    On CUDA the total is the allocator's peak, without what was allocated before and is not used within the context,
    such as the optimizer's state in an inference pass. What exceeds the categories (workspace that kernels allocate
    within the context, rounding) counts as temporary. Compiled blocks run uncompiled, as their tensors could not be
    observed otherwise.

    Args:
        model: its parameters and buffers are the weights; they may be replaced within the context.
        optimizer: one whose existing state and parameters are to be known from the start. Optimizers that step within
            the context are recognised without it.
        inputs: the batch, in any nesting; not needed if it is created within the context.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | None = None, inputs: object = ()):
        self._model, self._optimizer, self._inputs = model, optimizer, inputs
        first = next(model.parameters(), None)
        self._device = torch.device("cpu") if first is None else first.device
        self._log = StorageLog(self._device.type, self._backward_begins)
        self._allocated: int | None = None
        self._before = 0  # bytes allocated on a GPU at the beginning

    @property
    def peak(self) -> MemoryPeak:
        """The peak so far, by category."""
        parts = self._log.peak()
        if self._allocated is not None:
            parts["temporary"] += max(0, self._allocated - sum(parts.values()))
        return MemoryPeak(**parts)

    @property
    def totals(self) -> list[int]:
        """Bytes of live tensors after every allocation and release so far, in order."""
        return self._log.totals()

    def __enter__(self) -> "LiveMemory":
        self._relabel_all()
        self._log.label(_tensors(self._inputs), "activations")
        with ExitStack() as stack:
            stack.enter_context(uncompiled())
            for handle in self._hooks():
                stack.enter_context(handle)
            stack.enter_context(saved_tensors_hooks(self._saved, lambda saved: saved))
            stack.enter_context(every_saving_hook(self._saved))
            stack.enter_context(storage_resizes(self._log.resized))
            stack.enter_context(self._log)
            if self._device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self._device)
                self._before = torch.cuda.memory_allocated(self._device)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._stack.close()
        if self._device.type == "cuda":
            unused = max(0, self._before - self._log.found)
            self._allocated = torch.cuda.max_memory_allocated(self._device) - unused
        self._relabel_all()
        self._log.close()

    def _relabel_all(self, optimizer: Optimizer | None = None) -> None:
        """Label the current weights, gradients and optimizer state; tensors may have been replaced."""
        parameters = list(self._model.parameters())
        self._log.label([*parameters, *self._model.buffers()], "weights")
        for owner in (optimizer, self._optimizer):
            if owner is not None:
                self._log.label(_tensors(list(owner.state.values())), "optimizer")
                parameters += [p for group in owner.param_groups for p in group["params"]]
        self._log.label([p.grad for p in parameters if p.grad is not None], "gradients")

    def _backward_begins(self) -> None:
        """Label all temporary tensors that are alive when a backward pass begins as activations."""
        self._relabel_all()
        for block in self._log.alive.values():
            if block.part == "temporary":
                block.part = "activations"

    def _saved(self, kept: object) -> object:
        self._log.label(_tensors(kept), "activations")
        return kept

    def _forward_begins(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._relabel_all()
        self._log.label(_tensors((args, kwargs)), "activations")

    def _hooks(self) -> Iterator[RemovableHandle]:
        around_step = lambda optimizer, args, kwargs: self._relabel_all(optimizer)  # noqa: E731
        yield self._model.register_forward_pre_hook(self._forward_begins, with_kwargs=True)
        yield register_optimizer_step_pre_hook(around_step)
        yield register_optimizer_step_post_hook(around_step)
        groups = [] if self._optimizer is None else self._optimizer.param_groups
        stepped = [p for group in groups for p in group["params"]]  # may include layers' coordinates `C`
        for parameter in {id(p): p for p in [*self._model.parameters(), *stepped]}.values():
            if parameter.requires_grad:
                yield run_first(parameter.register_post_accumulate_grad_hook(self._accumulated))

    def _accumulated(self, parameter: Tensor) -> None:
        self._log.label(_tensors(parameter.grad), "gradients")


def train_peak(
    model: nn.Module,
    optimizer: Optimizer | None,
    step: Callable[[Tensor, Tensor], object],
    images: Tensor,
    labels: Tensor,
    steps: int = 2,
) -> MemoryPeak:
    """Return the peak over `steps` whole steps on one batch. The steps train the model."""
    with LiveMemory(model, optimizer, (images, labels)) as memory:
        for _ in range(steps):
            step(images, labels)
    return memory.peak


def inference_peak(model: nn.Module, images: Tensor) -> MemoryPeak:
    """Return the peak of a forward pass of one batch in evaluation mode without gradients.

    Gradients and optimizer state left from training are not included. The fused fast path of `nn.MultiheadAttention`
    is disabled, since its workspace within one operator could not be observed.
    """
    with eval_mode(model), without_fast_path(), LiveMemory(model, inputs=images) as memory:
        model(images)
    peak = memory.peak
    return MemoryPeak(peak.weights, 0, 0, peak.activations, peak.temporary)


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
