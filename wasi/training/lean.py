"""`train.memory=lean`: a step that holds the activations of a few blocks and a few images at a time.

Blocks are taken a few at a time, as segments. A segment runs over the batch in chunks and keeps only its input,
in bfloat16 by default. The backward pass walks the segments from the last to the first, repeats each chunk's inside
but for the last product (`wasi.layers.graph_only`), and adds up its gradients. The patch embedding does the same from
the images as bytes. So the gradient is that of the whole batch, every Tucker basis advances once per step, and clipping
is the ordinary one by the global norm.

Gradients are held until the step, as without `lean`; WASI's, kept as coordinates (`O x r`), are thin.

Two kinds of tensors share a step. Those of a chunk are many and live briefly: the heap keeps their memory for the next
ones, and the allocator is told how large they are at most. What outlives a chunk (inputs of segments, their gradients,
gradients of weights) lies outside the heap, see `long_lived`. What a segment leaves free in the heap all the same is
returned after its backward pass, where that has become much.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial, wraps

import torch
from torch import Tensor, nn

from wasi.allocator import HeapTrimmer, return_large_blocks
from wasi.errors import UserError
from wasi.layers.factored import FactoredLinear
from wasi.layers.graph_only import GraphOnlyRepetition, convolution_graph
from wasi.models.structure import find_blocks, first_convolution, linear_sites
from wasi.training.chunked_repeat import ChunkedRepeat, Repeated
from wasi.training.compile import is_compiled
from wasi.training.segments import segments
from wasi.training.step import TrainStep

log = logging.getLogger(__name__)

_TRIM_AFTER = 64 * 2**20  # bytes: ViT-B/32 grows by more in a step, nets whose steps take a second do not


class LeanStep(TrainStep):
    """`TrainStep` whose patch embedding and segments of blocks run as `ChunkedRepeat`; it takes images as bytes, which
    the patch embedding normalises chunk by chunk.

    Args:
        chunk_size: images per chunk and in evaluation, at most; chunk_mib: what a layer writes for a chunk, in MiB, at
            most, so fewer images where layers are wide or tokens many; None sets no such limit.
        segment_size: blocks that are repeated together, at most.
        storage: `torch.float32` or `torch.bfloat16`, the type of what passes from one segment to the next, and of
            its gradient. bfloat16 rounds both while training.
    """

    chunk_size: int

    def __init__(
        self,
        *args,
        chunk_size: int,
        segment_size: int,
        storage: torch.dtype,
        chunk_mib: float | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        _refuse_what_chunks_would_change(self.model)
        self.chunk_size, self._storage = chunk_size, storage
        self._chunk_bytes = None if chunk_mib is None else chunk_mib * 2**20
        self._dtype = next(self.model.parameters()).dtype
        self._trimmer = HeapTrimmer(_TRIM_AFTER) if self.device.type == "cpu" else None
        self._told_allocator = False  # the size of a chunk's largest tensor, which takes a batch to know
        self._anchor = torch.empty(0, device=self.device, requires_grad=True)
        blocks, (_, embedding) = find_blocks(self.model), _patch_embedding(self.model)
        self._widths = dict.fromkeys(blocks.values(), 0)  # of a block's linears, the largest
        for site in linear_sites(self.model, "all"):
            block = blocks[site.block]
            self._widths[block] = max(self._widths[block], site.in_features, site.out_features)
        self._whole = {module: module.forward for module in (embedding, *blocks.values())}
        self._pieces: dict[nn.Module, Callable[..., Tensor]] = {}
        graph = convolution_graph(embedding)
        self._pieces[embedding] = self._chunked(
            [embedding],
            self._normalizing(embedding.forward),
            self._dtype,
            rerun=None if graph is None else self._normalizing(graph),
        )
        repeated_together: list[Sequence[nn.Module]] = [[embedding]]
        for segment, followed in segments(self.model, blocks.values(), segment_size):
            self._pieces |= self._in_one(segment, followed)
            repeated_together.append(segment)
        if self.in_backward:
            _refuse_shared_parameters(repeated_together)
        _set_forwards(self._pieces)
        for parameter in _stepped_on([embedding, *blocks.values()]):
            if parameter in self.in_backward:  # which waits for the last chunk
                self.in_backward[parameter].remove()

    def prepare(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images.to(self.device), labels.to(self.device)

    def _complete_inside(self, modules: Sequence[nn.Module]) -> None:
        if self.in_backward:
            self.complete(_stepped_on(modules))
        if self._trimmer is not None:
            self._trimmer.trim_if_grown()

    def _normalizing(self, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            return forward(x if x.is_floating_point() else self.normalize(x))

        return run

    def _in_one(self, segment: Sequence[nn.Module], followed: bool) -> dict[nn.Module, Callable[..., Tensor]]:
        """The last block of a segment runs all of it; those before hand on what they are given."""
        *before, last = forwards = [self._whole[block] for block in segment]

        def whole(x: Tensor, *args, **kwargs) -> Tensor:
            for forward in before:
                x = forward(x)
            return last(x, *args, **kwargs)

        out = self._storage if followed else self._dtype
        pieces = {segment[-1]: self._chunked(segment, whole, out, last)}
        for block, forward in zip(segment[:-1], forwards, strict=False):
            pieces[block] = self._handing_on(segment, forward)
        return pieces

    def _handing_on(self, segment: Sequence[nn.Module], forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(forward)
        def run(x: Tensor) -> Tensor:
            return x if _trains(segment, x) else forward(x)

        return run

    def _chunked(
        self,
        modules: Sequence[nn.Module],
        run: Callable[..., Tensor],
        out: torch.dtype,
        otherwise: Callable[..., Tensor] | None = None,
        rerun: Callable[[Tensor], Tensor] | None = None,
    ) -> Callable[..., Tensor]:
        """`run`, all of `modules`, in chunks while they train; else `otherwise`, the last of them, on its own.

        rerun: the graph of `run` alone, to be repeated in its place.
        """
        parameters = [p for p in _stepped_on(modules) if p.requires_grad]
        width = max(self._widths.get(module, 0) for module in modules)
        as_it_is = rerun is not None or any(is_compiled(self._whole[module]) for module in modules)
        repetition = (lambda: nullcontext) if as_it_is else partial(GraphOnlyRepetition, modules)

        @wraps(run)
        def chunked(x: Tensor, *args, **kwargs) -> Tensor:
            if not _trains(modules, x):
                return (otherwise or run)(x, *args, **kwargs)
            numbers = max(x[0].numel(), x[0].numel() // x.shape[-1] * width)
            written = self._dtype.itemsize * numbers  # bytes per image
            size = self._images_at_once(written)
            if width and not self._told_allocator:
                self._told_allocator = True
                return_large_blocks(size * written + 4096)
                if size < min(self.chunk_size, len(x)):
                    log.info("%d images at a time: train.chunk_mib allows no more", size)

            def run_chunk(chunk: Tensor) -> Tensor:
                return run(chunk, *args, **kwargs)

            part = Repeated(
                run_chunk,
                size,
                self._dtype,
                self._storage,
                out,
                parameters,
                lambda: self._complete_inside(modules),
                rerun or run_chunk,
                repetition,
            )
            return ChunkedRepeat.apply(self._anchor, x, part)

        return chunked

    def _images_at_once(self, written: int) -> int:
        """Images per chunk where a layer writes so many bytes for each."""
        if self._chunk_bytes is None:
            return self.chunk_size
        return max(1, min(self.chunk_size, int(self._chunk_bytes // written)))


def _stepped_on(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Parameters, and coordinates of factored layers."""
    for module in modules:
        yield from module.parameters()
        yield from (m.C for m in module.modules() if isinstance(m, FactoredLinear) and m.C is not None)


def _trains(modules: Sequence[nn.Module], x: Tensor) -> bool:
    if not (torch.is_grad_enabled() and modules[0].training):
        return False
    return x.requires_grad or any(p.requires_grad for module in modules for p in module.parameters())


def _set_forwards(forwards: Mapping[nn.Module, Callable[..., Tensor]]) -> None:
    for module, forward in forwards.items():
        module.forward = forward


def _patch_embedding(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Name and module of the patch embedding's convolution.

    Raises:
        UserError: the model has none, so it cannot take images as bytes.
    """
    found = first_convolution(model)
    if found is None:
        raise UserError("train.memory", "lean", "plain for a model without a patch embedding's convolution")
    return found


def _refuse_shared_parameters(segments: Iterable[Sequence[nn.Module]]) -> None:
    """A segment steps on its parameters when its backward pass is over; a shared one's gradient is not complete then.

    Raises:
        UserError: two segments have a parameter in common.
    """
    held = [id(parameter) for segment in segments for parameter in {*_stepped_on(segment)}]
    if len(set(held)) < len(held):
        allowed = "false with train.memory=lean, for a model whose blocks share weights"
        raise UserError("train.step_in_backward", "true", allowed)


def _refuse_what_chunks_would_change(model: nn.Module) -> None:
    blocks = find_blocks(model).values()
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for block in blocks for m in block.modules()):
        raise UserError("train.memory", "lean", "plain for a model whose blocks have batch norms")
