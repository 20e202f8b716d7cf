"""Small matrices of many layers at once, for accelerators, where launching an operation takes longer than computing it.

On a CPU, matrices are computed one after another, so that no more than one result takes memory at a time.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


def is_on_cpu(a: Tensor) -> bool:
    """Whether `a` is on the CPU: elsewhere, control flow that depends on its values would need a synchronisation."""
    return a.device.type == "cpu"


def in_batches(function: Callable[..., Tensor], *matrices: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Yield pairs of an index and `function` of the matrices at that index, in any order.

    On an accelerator, matrices of equal shapes are computed as one batch; on a CPU, one result is computed at a time,
    when it is asked for.

    Args:
        function: must work under `torch.vmap`.
        matrices: one sequence for each argument of `function`, all of the same length.
    """
    rows = list(zip(*matrices, strict=True))
    if not rows or is_on_cpu(rows[0][0]):
        yield from ((number, function(*row)) for number, row in enumerate(rows))
        return
    by_shape: dict[object, list[int]] = {}
    for number, row in enumerate(rows):
        by_shape.setdefault(tuple(matrix.shape for matrix in row), []).append(number)
    for numbers in by_shape.values():
        columns = zip(*(rows[number] for number in numbers), strict=True)
        yield from zip(numbers, torch.vmap(function)(*map(torch.stack, columns)), strict=True)


def stacked(matrices: Sequence[Tensor]) -> Tensor:
    """Stack matrices as one tensor `[number, most rows, most columns]`, padded with zeros at the bottom and right."""
    if len({matrix.shape for matrix in matrices}) == 1:
        return torch.stack(list(matrices))
    rows, columns = (max(matrix.shape[axis] for matrix in matrices) for axis in (0, 1))
    together = matrices[0].new_zeros(len(matrices), rows, columns)
    for padded, matrix in zip(together, matrices, strict=True):
        padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return together


def computed_on_cpu(function: Callable[[Tensor], Tensor], squares: Sequence[Tensor]) -> list[Tensor]:
    """Return `function` of each square matrix, computed on the CPU, with one transfer from an accelerator and one back.

    Decomposing so small a matrix takes longer on an accelerator, and each decomposition there makes the host wait.
    """
    if not squares or is_on_cpu(squares[0]):
        return [function(square) for square in squares]
    sizes = [len(square) for square in squares]
    together = torch.cat([square.flatten() for square in squares]).cpu().split([n * n for n in sizes])
    found = [function(part.view(n, n)).flatten() for part, n in zip(together, sizes, strict=True)]
    back = torch.cat(found).to(squares[0].device).split([n * n for n in sizes])
    return [part.view(n, n) for part, n in zip(back, sizes, strict=True)]
