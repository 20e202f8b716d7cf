"""How `train.memory=lean` divides the blocks into segments, each of which is recomputed as a whole."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from torch import nn


def segment_lengths(blocks: int, size: int) -> list[int]:
    """Return the lengths of the segments of `blocks` consecutive blocks: at most `size`, and 1 in their last third.

    If `size >= blocks`, there is one segment. Memory holds the inputs of all segments whose backward pass is not over,
    and the activations inside the one that is recomputed. The last segments are recomputed while nearly all inputs are
    held, so these are short. Also, the last product of a segment is not recomputed (`wasi.layers.skipped_output`), so
    more segments take less time.
    """
    alone = blocks // 3 if 1 < size < blocks else 0
    in_groups = blocks - alone
    lengths = [min(size, in_groups - start) for start in range(0, in_groups, size)]
    return lengths + [1] * alone


def segments(model: nn.Module, blocks: Iterable[nn.Module], size: int) -> Iterator[tuple[Sequence[nn.Module], bool]]:
    """Yield each segment's blocks, and whether another segment follows it directly.

    Consecutive blocks of an `nn.Sequential` form segments of `segment_lengths`; any other block is its own segment.
    """
    alone = dict.fromkeys(blocks)
    for parent in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        for is_block, group in groupby(parent, lambda module: module in alone):
            if not is_block:
                continue
            run = list(group)
            start = 0
            for length in segment_lengths(len(run), size):
                yield run[start : start + length], start + length < len(run)
                start += length
            for block in run:
                del alone[block]
    for block in alone:
        yield [block], False
