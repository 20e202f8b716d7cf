"""How `train.memory=lean` divides a row of blocks into segments that are repeated together."""


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
