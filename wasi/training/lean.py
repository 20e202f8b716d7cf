"""`train.memory=lean`: a step that holds the activations of a few blocks for a few images at a time.

Blocks are grouped into segments of a few blocks. A segment runs over the batch in chunks of images and saves only its
input, in bfloat16 by default. The backward pass goes through the segments from the last to the first, recomputes each
chunk (without its last product, see `wasi.layers.skipped_output`) and accumulates its gradients. The patch embedding
does the same, starting from uint8 images. So the gradient is that of the whole batch, every Tucker basis is updated
once per step, and clipping is by the global norm as usual.

Gradients are held until the optimizer's step, as without `lean`; those of WASI in coordinates (`O x r`) are small.

Tensors of a chunk are many and short-lived: they stay in the heap, which reuses their memory; the allocator is set up
for the largest of them. Tensors that outlive a chunk (segments' inputs and their gradients, weight gradients) are
allocated outside the heap, see `long_lived`. Free heap memory is returned to the system after a segment's backward pass
if the process has grown by `_TRIM_AFTER`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial, wraps

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from wasi.allocator import HeapTrimmer, return_large_blocks
from wasi.data.transfer import to_device
from wasi.errors import UserError
from wasi.layers.factored import FactoredLinear
from wasi.layers.skipped_output import GraphOnlyRepetition, convolution_graph
from wasi.models.structure import batch_norms, find_blocks, first_convolution, linear_sites
from wasi.training.chunked_checkpoint import ChunkedCheckpoint, Repeated
from wasi.training.compile import is_compiled
from wasi.training.segments import segments
from wasi.training.step import TrainStep

log = logging.getLogger(__name__)

_ONE_ACTIVATION = "plain for a model whose blocks take or return more than one activation"
_TRIM_AFTER = 64 * 2**20  # bytes: a step of ViT-B/32 grows by more; models with steps of a second do not reach it


class LeanStep(TrainStep):
    """A `TrainStep` whose patch embedding and segments of blocks run as `ChunkedCheckpoint`.

    It takes uint8 images, which the patch embedding normalises chunk by chunk.

    Args:
        args, kwargs: of `TrainStep`.
        chunk_size: the most images per chunk, and per batch in evaluation.
        segment_size: the most blocks that are recomputed together.
        storage: `torch.float32` or `torch.bfloat16`, the type of activations between segments and of their gradients;
            bfloat16 rounds both during training.
        chunk_mib: the most MiB that the input or output of a linear layer may take for a chunk, which reduces the
            images per chunk if layers are wide or tokens many; None sets no limit.

    Raises:
        UserError: the model has not exactly one patch embedding by a convolution, or has batch norms in its blocks; or,
            with `step_in_backward`, two segments share parameters. In the first step: blocks take or return more than
            one activation, or the model changes images before it embeds them.
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
        self._allocator_is_set = False  # to the size of a chunk's largest tensor, known at the first batch
        self._anchor = torch.empty(0, device=self.device, requires_grad=True)
        self._whole_only: set[Callable] = set()  # parts that do not train and return more than one activation
        blocks, (_, embedding) = find_blocks(self.model), _patch_embedding(self.model)
        self._widths = dict.fromkeys(blocks.values(), 0)  # the largest in_features or out_features in each block
        for site in linear_sites(self.model, "all"):
            block = blocks[site.block]
            self._widths[block] = max(self._widths[block], site.in_features, site.out_features)
        self._whole = {module: module.forward for module in (embedding, *blocks.values())}  # the original functions
        self._pieces: dict[nn.Module, Callable[..., Tensor]] = {}  # their replacements
        graph = convolution_graph(embedding)
        embed = self._chunked(
            [embedding],
            self._normalizing(embedding.forward),
            self._dtype,
            rerun=None if graph is None else self._normalizing(graph),
        )
        self._images: tuple[torch.dtype, torch.Size] | None = None  # type and `[3, S, S]` of the images of a step
        self._pieces[embedding] = self._of_images(embed)
        repeated_together: list[Sequence[nn.Module]] = [[embedding]]
        for segment, followed in segments(self.model, blocks.values(), segment_size):
            self._pieces |= self._segment_forwards(segment, followed)
            repeated_together.append(segment)
        if self.in_backward:
            _refuse_shared_parameters(repeated_together)
        _set_forwards(self._pieces)
        for parameter in _stepped_on([embedding, *blocks.values()]):
            if parameter in self.in_backward:  # its step waits for the last chunk, see `_complete_inside`
                self.in_backward[parameter].remove()

    def prepare(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Move a loader's batch to the device; images stay uint8."""
        return to_device(images, self.device), to_device(labels, self.device)

    def _accumulate(self, images: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        self._images = images.dtype, images.shape[1:]
        try:
            return super()._accumulate(images, labels)
        finally:
            self._images = None

    def _complete_inside(self, modules: Sequence[nn.Module]) -> None:
        """End the backward pass of `modules`: step on their matrices (`step_in_backward`), return free memory."""
        if self.in_backward:
            self.complete(_stepped_on(modules))
        if self._trimmer is not None:
            self._trimmer.trim_if_grown()

    def _normalizing(self, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            return forward(x if x.is_floating_point() else self.normalize(x))

        return run

    def _of_images(self, embed: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return `embed`, which in a step refuses anything but the images, as they would be changed before normalised.

        Raises:
            UserError: in a step, if the input is of another type or size than the step's images.
        """

        @wraps(embed)
        def run(x: Tensor) -> Tensor:
            if self._images is not None and self._images != (x.dtype, x.shape[1:]):
                allowed = "plain for a model that changes images before its first convolution"
                raise UserError("train.memory", "lean", allowed)
            return embed(x)

        return run

    def _segment_forwards(self, segment: Sequence[nn.Module], followed: bool) -> dict[nn.Module, Callable[..., Tensor]]:
        """Return new `forward` functions for the blocks of a segment: the last block runs all of it in chunks.

        The blocks before return their input unchanged in training, and run alone otherwise.

        Args:
            followed: whether another segment follows at once, so that the result is in the storage type.
        """
        *before, last = forwards = [self._whole[block] for block in segment]

        def whole(x: Tensor, *args, **kwargs) -> Tensor:
            for forward in before:
                x = forward(x)
            return last(x, *args, **kwargs)

        out = self._storage if followed else self._dtype
        pieces = {segment[-1]: self._chunked(segment, whole, out, last)}
        for block, forward in zip(segment[:-1], forwards, strict=False):
            pieces[block] = self._identity_in_training(segment, forward)
        return pieces

    def _identity_in_training(
        self, segment: Sequence[nn.Module], forward: Callable[..., Tensor]
    ) -> Callable[..., Tensor]:
        width = max(self._widths.get(module, 0) for module in segment)

        @wraps(forward)
        def run(x: Tensor) -> Tensor:
            return x if _trains(segment, x) else self._without_gradients(forward, x, width)

        return run

    def _without_gradients(self, forward: Callable[..., Tensor], x: Tensor, width: int, *args, **kwargs) -> Tensor:
        """Call `forward`, of a part of the model that does not train, in a step chunk by chunk.

        Outside of a step (`_images` is None) it is called once, as evaluation takes at most `chunk_size` images. So is
        one that takes more than one activation, or has returned more than one for the first chunk of an earlier step.
        """
        is_whole = self._images is None or forward in self._whole_only
        if is_whole or _other_activations(x, tree_leaves((args, kwargs))):
            return forward(x, *args, **kwargs)
        size = self._chunk_of(x, width)
        y = forward(x[:size], *args, **kwargs)
        if not isinstance(y, Tensor):
            self._whole_only.add(forward)
            return forward(x, *args, **kwargs)
        result = y.new_empty((len(x), *y.shape[1:]))
        result[:size] = y
        for start in range(size, len(x), size):
            result[start : start + size] = forward(x[start : start + size], *args, **kwargs)
        return result

    def _chunked(
        self,
        modules: Sequence[nn.Module],
        run: Callable[..., Tensor],
        out: torch.dtype,
        otherwise: Callable[..., Tensor] | None = None,
        rerun: Callable[[Tensor], Tensor] | None = None,
    ) -> Callable[..., Tensor]:
        """Return a `forward` that calls `run` in chunks, as `ChunkedCheckpoint`, while `modules` train.

        Args:
            modules: the modules that `run` calls.
            out: type of the result.
            otherwise: called when they do not train: the last module's own `forward`; None calls `run`.
            rerun: recomputed in place of `run`, with the same graph; None recomputes `run`.
        """
        parameters = [p for p in _stepped_on(modules) if p.requires_grad]
        width = max(self._widths.get(module, 0) for module in modules)
        as_it_is = rerun is not None or any(is_compiled(self._whole[module]) for module in modules)
        repetition = (lambda: nullcontext) if as_it_is else partial(GraphOnlyRepetition, modules)

        @wraps(run)
        def chunked(x: Tensor, *args, **kwargs) -> Tensor:
            if not _trains(modules, x):
                return self._without_gradients(otherwise or run, x, width, *args, **kwargs)
            if _other_activations(x, tree_leaves((args, kwargs))):
                raise UserError("train.memory", "lean", _ONE_ACTIVATION)
            size = self._chunk_of(x, width)

            def run_chunk(chunk: Tensor) -> Tensor:
                y = run(chunk, *args, **kwargs)
                if not isinstance(y, Tensor):
                    raise UserError("train.memory", "lean", _ONE_ACTIVATION)
                return y

            part = Repeated(
                run=run_chunk,
                size=size,
                dtype=self._dtype,
                storage=self._storage,
                out=out,
                parameters=parameters,
                done=lambda: self._complete_inside(modules),
                rerun=rerun or run_chunk,
                repetition=repetition,
            )
            return ChunkedCheckpoint.apply(self._anchor, x, part)

        return chunked

    def _chunk_of(self, x: Tensor, width: int) -> int:
        """Return the images per chunk for a part of the model with input `x` and linear layers up to `width` wide.

        The first call with a width sets up the allocator for the largest tensor of such a chunk.
        """
        numbers = max(x[0].numel(), x[0].numel() // x.shape[-1] * width)
        written = self._dtype.itemsize * numbers  # bytes per image
        size = self._images_at_once(written)
        if width and not self._allocator_is_set:
            self._allocator_is_set = True
            return_large_blocks(size * written + 4096)
            if size < min(self.chunk_size, len(x)):
                log.info("%d images at a time: train.chunk_mib allows no more", size)
        return size

    def _images_at_once(self, written: int) -> int:
        """Return the images per chunk if the largest tensor takes `written` bytes per image."""
        if self._chunk_bytes is None:
            return self.chunk_size
        return max(1, min(self.chunk_size, int(self._chunk_bytes // written)))


def _stepped_on(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Yield the parameters of `modules` and the coordinates `C` of their factored layers."""
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
    """Return name and module of the patch embedding's convolution, which takes the uint8 images.

    Raises:
        UserError: the model has none, or another convolution of images beside it, which would get them as uint8.
    """
    found = first_convolution(model)
    if found is None:
        raise UserError("train.memory", "lean", "plain for a model without a patch embedding's convolution")
    if sum(isinstance(m, nn.Conv2d) and m.in_channels == 3 for m in model.modules()) > 1:
        raise UserError("train.memory", "lean", "plain for a model with several patch embeddings")
    return found


def _refuse_shared_parameters(segments: Iterable[Sequence[nn.Module]]) -> None:
    """Refuse `train.step_in_backward` for segments that share parameters.

    Parameters are stepped on after their segment's backward pass, when the gradient of a shared one is not complete.

    Raises:
        UserError: two segments have a parameter in common.
    """
    held = [id(parameter) for segment in segments for parameter in {*_stepped_on(segment)}]
    if len(set(held)) < len(held):
        allowed = "false with train.memory=lean, for a model whose blocks share weights"
        raise UserError("train.step_in_backward", "true", allowed)


def _other_activations(x: Tensor, arguments: Iterable[object]) -> bool:
    """Return whether a block gets other tensors of activations beside its input `x`, `[B, ...]`.

    They would not be cut into chunks, and the graph behind them would be gone after the first chunk. They are those
    that require a gradient, or have at least three dimensions, the first of size `B`.
    """
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    return any(t.requires_grad or (t.dim() > 2 and len(t) == len(x)) for t in tensors)


def _refuse_what_chunks_would_change(model: nn.Module) -> None:
    blocks = find_blocks(model).values()
    if any(batch_norms(block) for block in blocks):
        raise UserError("train.memory", "lean", "plain for a model whose blocks have batch norms")
