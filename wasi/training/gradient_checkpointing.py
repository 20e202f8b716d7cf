"""Gradient checkpointing: save each block's input, recompute the block in the backward pass (arXiv 1604.06174)."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps

from torch import nn
from torch.utils.checkpoint import checkpoint

from wasi.models.structure import batch_norms, find_blocks


def checkpoint_blocks(model: nn.Module) -> None:
    """Make every transformer block of `model` save only its input and recompute the rest in the backward pass."""
    for block in find_blocks(model).values():
        block.forward = _checkpointed(block, block.forward)


def _checkpointed(block: nn.Module, forward):
    @wraps(forward)
    def run(*args, **kwargs):
        if not block.training:
            return forward(*args, **kwargs)
        contexts = lambda: (nullcontext(), _repetition(block))  # noqa: E731 (of the forward pass and the recomputation)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return run


@contextmanager
def _repetition(block: nn.Module) -> Iterator[None]:
    """Inside, batch norms do not update running statistics: the first forward pass on this batch has done so."""
    seen = ((norm, norm.num_batches_tracked) for norm in batch_norms(block) if norm.track_running_stats)
    before = [(norm, norm.momentum, count, count.clone()) for norm, count in seen if count is not None]
    for norm, *_ in before:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count, count_before in before:
            norm.momentum = momentum
            count.copy_(count_before)
