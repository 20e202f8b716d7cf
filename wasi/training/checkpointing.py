"""Gradient checkpointing: keep each block's input, repeat the block in the backward pass (arXiv 1604.06174)."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps

from torch import nn
from torch.utils.checkpoint import checkpoint

from wasi.layers.recompute import call_positions, repeat_from
from wasi.models.structure import find_blocks


def checkpoint_blocks(model: nn.Module) -> tuple[str, ...]:
    """Make every transformer block of `model` recompute its inside in the backward pass; their names."""
    blocks = find_blocks(model)
    for block in blocks.values():
        block.forward = _checkpointed(block, block.forward)
    return tuple(blocks)


def _checkpointed(block: nn.Module, forward):
    @wraps(forward)
    def run(*args, **kwargs):
        if not block.training:
            return forward(*args, **kwargs)
        contexts = partial(_contexts, block)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return run


def _contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """For the first forward pass, and for its repetition from the same calls."""
    return nullcontext(), repeat_from(call_positions(block))
