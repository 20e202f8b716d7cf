"""`device.cuda_graphs=true`: what a step starts on a GPU is recorded once, and started as a whole from then on.

A step of a transformer starts thousands of operations, and a host that starts each of them may take longer than the
GPU to compute them. A CUDA graph is their record: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
Two are made for each kind of step, a kind being the set of activation bases that move at its end: from images to
clipped gradients, and from the optimizer's step in coordinates to the next factors and bases. Between the two the host
reads loss and norm, and the optimizer steps as it always does.
"""

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wasi.errors import UserError
from wasi.training import parallel
from wasi.training.compile import is_looked_into, note_recording
from wasi.training.step import TrainStep
from wasi.training.swan import Swan

log = logging.getLogger(__name__)


@dataclass
class _Kind:
    """A kind of step: what has a gradient in it, and its two graphs once they are recorded."""

    held: Sequence[Tensor]  # with a gradient after the backward pass
    found: Tensor | None = None
    gradients: Any = None
    finish: Any = None
    grads: dict[Tensor, Tensor] = field(default_factory=dict)  # where the graphs look for the gradients


class GraphedStep(TrainStep):
    """`TrainStep` that records itself on a GPU. Each kind of step runs twice as it is: once, and once to be recorded.

    A batch of another size than the first, as an epoch's last one, runs as it is, and so does everything while
    something looks into the model (`wasi.training.compile.uncompiled`). A graph reads and writes where it did when it
    was recorded, so batch, gradients and coordinates of a step stay in one place.

    Raises:
        UserError: in data-parallel training.
    """

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        if parallel.is_parallel():
            raise UserError("device.cuda_graphs", "true", "false under torchrun")
        self._kinds: dict[tuple, _Kind] = {}
        self._now: _Kind | None = None  # whose gradients were last made by a graph
        self._can_record_finish = True
        self._pool: Any = None  # memory that all graphs share, as no two run at a time
        self._batch: tuple[Tensor, Tensor] | None = None
        self._count = 0
        self._grads: dict[Tensor, Tensor] = {}
        self._updates: dict[Tensor, Tensor] = {}

    def _gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        self._now = None
        if is_looked_into() or not self._fits(images, labels):
            return super()._gradients(images, labels)
        key = tuple(basis.requires_grad for basis in self._bases())
        kind = self._kinds.get(key)
        if kind is None:
            found = super()._gradients(images, labels)
            self._kinds[key] = _Kind([p for p in self.subspace.summed() if p.grad is not None])
            note_recording()
            return found
        if kind.gradients is not None and any(p.grad is not None and p.grad is not g for p, g in kind.grads.items()):
            kind.gradients = kind.finish = None  # an optimizer's state was loaded, and lies elsewhere
        assert self._batch is not None
        for ours, theirs in zip(self._batch, (images, labels), strict=True):
            ours.copy_(theirs)
        if kind.gradients is None:
            self._record_gradients(kind)
        for parameter, grad in kind.grads.items():
            parameter.grad = grad
        kind.gradients.replay()
        self._now = kind
        assert kind.found is not None
        return kind.found, self._count

    def _update(self) -> None:
        kind = self._now
        if kind is None or self.subspace.truncating:  # by an SVD, which cannot be recorded
            super()._update()
            return
        self._make_room()
        self.optimizer.step()
        with torch.no_grad():
            for coordinates, place in self._updates.items():
                if coordinates.data_ptr() != place.data_ptr():
                    coordinates.data = place.copy_(coordinates)
        self.subspace.decay_()  # changes with the learning rate, so it is no part of the graph
        if kind.finish is None and self._can_record_finish:
            kind.finish = self._record_finish()
        if kind.finish is None:
            self.subspace.compute(decayed=True)
        else:
            kind.finish.replay()
        self.subspace.conclude()

    def _fits(self, images: Tensor, labels: Tensor) -> bool:
        """Whether the batch is like the first, which it may be itself."""
        if self._batch is None:
            self._batch, self._count = (images.clone(), labels.clone()), len(labels)
        return all(
            a.shape == b.shape and a.dtype == b.dtype for a, b in zip(self._batch, (images, labels), strict=True)
        )

    def _bases(self) -> list[Tensor]:
        states = (layer.state for layer in self.subspace.layers if layer.state is not None)
        return [basis for state in states for basis in state.bases if basis is not None]

    def _record_gradients(self, kind: _Kind) -> None:
        """The gradient of a whitened parameter with momentum adds to what is there, any other starts from zero."""
        zeroed = []
        for parameter in kind.held:
            if parameter.grad is None:
                if parameter not in self._grads:
                    self._grads[parameter] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
                parameter.grad = self._grads[parameter]
                zeroed.append(parameter.grad)
            kind.grads[parameter] = parameter.grad

        assert self._batch is not None
        images, labels = self._batch

        def run() -> None:
            if zeroed:
                torch._foreach_zero_(zeroed)
            kind.found, _ = super(GraphedStep, self)._gradients(images, labels)

        try:
            kind.gradients = self._record(run)
        except RuntimeError as error:
            told = f"false here, where a step cannot be recorded: {_first_line(error)}"
            raise UserError("device.cuda_graphs", "true", told) from error

    def _record_finish(self) -> Any:
        """A graph of what follows the optimizer's step; None where it cannot be recorded, which costs time alone."""
        grads = [(basis, basis.grad) for basis in self._bases()]
        try:
            return self._record(partial(self.subspace.compute, decayed=True))
        except RuntimeError as error:
            log.warning("device.cuda_graphs: subspace work is started as before: %s", _first_line(error))
            self._can_record_finish = False
            for basis, grad in grads:
                basis.grad = grad
            for coordinates, place in self._updates.items():
                coordinates.data = place
            return None

    def _record(self, run: Callable[[], None]) -> Any:
        """What `run` starts, as a graph; it is not computed."""
        gc.collect()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                run()
        finally:
            torch.cuda.set_stream(stream)  # where recording fails, torch stays on the stream that it recorded
        self._pool = graph.pool()
        note_recording()
        return graph

    def _make_room(self) -> None:
        """As `SubspaceIteration.make_room`, always in one place; `Swan` is given it after it has stepped."""
        places = []
        for layer in self.subspace.folding:
            assert layer.C is not None
            if layer.C.grad is not None:
                if layer.C not in self._updates:
                    self._updates[layer.C] = torch.empty_like(layer.C.grad)
                places.append((layer.C, self._updates[layer.C]))
        if places and not isinstance(self.optimizer, Swan):
            torch._foreach_zero_([place for _, place in places])
            for coordinates, place in places:
                coordinates.data = place


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
