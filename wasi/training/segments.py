"""How `train.memory=lean` divides blocks into segments that are repeated together."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from torch import nn


def segment_lengths(blocks: int, size: int) -> list[int]:
    """Lengths of the segments of `blocks` blocks in a row: `size`, and 1 in the last third of a row that is longer.

    Every segment's input is kept, and what is inside one while its backward pass runs. That of the last ones runs while
    the inputs of all are there, so these hold least inside. And each segment ends with a product that is not repeated
    (`wasi.layers.graph_only`), so more of them take less time.
    """
    alone = blocks // 3 if 1 < size < blocks else 0
    in_groups = blocks - alone
    lengths = [min(size, in_groups - start) for start in range(0, in_groups, size)]
    return lengths + [1] * alone


def segments(model: nn.Module, blocks: Iterable[nn.Module], size: int) -> Iterator[tuple[Sequence[nn.Module], bool]]:
    """Blocks in groups of at most `size` (`segment_lengths`), and whether another group follows at once.

    Only blocks that an `nn.Sequential` runs one after another can be grouped.
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
