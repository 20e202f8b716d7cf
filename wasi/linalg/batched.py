"""Small matrices of many layers at once, for accelerators, where launching an operation takes longer than computing it.

On a CPU, matrices are computed one after another, so that no more than one result takes memory at a time.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


def is_on_cpu(a: Tensor) -> bool:
    """Whether `a` is on the CPU: elsewhere, control flow that depends on its values would need a synchronisation."""
    return a.device.type == "cpu"


def in_batches(
    function: Callable[..., Tensor], *matrices: Sequence[Tensor]
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Yield lists of indices, and of `function` of the matrices at these indices, until each index has had its turn.

    On an accelerator, matrices of equal shapes are computed as one batch; on a CPU, one result is computed at a time,
    when it is asked for.

    Args:
        function: must work under `torch.vmap`.
        matrices: one sequence for each argument of `function`, all of the same length.
    """
    rows = list(zip(*matrices, strict=True))
    if not rows or is_on_cpu(rows[0][0]):
        yield from (([number], [function(*row)]) for number, row in enumerate(rows))
        return
    by_shape: dict[object, list[int]] = {}
    for number, row in enumerate(rows):
        by_shape.setdefault(tuple(matrix.shape for matrix in row), []).append(number)
    for numbers in by_shape.values():
        columns = zip(*(rows[number] for number in numbers), strict=True)
        yield numbers, list(torch.vmap(function)(*map(torch.stack, columns)))


def stacked(matrices: Sequence[Tensor], diagonal: float = 0.0) -> Tensor:
    """Stack matrices as one tensor `[number, most rows, most columns]`, padded at the bottom and right.

    Args:
        diagonal: value of the padding on the diagonal; all other padding is zero.
    """
    if len({matrix.shape for matrix in matrices}) == 1:
        return torch.stack(list(matrices))
    rows, columns = (max(matrix.shape[axis] for matrix in matrices) for axis in (0, 1))
    together = matrices[0].new_zeros(len(matrices), rows, columns)
    if diagonal:
        together.diagonal(dim1=1, dim2=2).fill_(diagonal)
    corners = [padded[: len(matrix), : matrix.shape[1]] for padded, matrix in zip(together, matrices, strict=True)]
    torch._foreach_copy_(corners, list(matrices))
    return together
