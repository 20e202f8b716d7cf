"""Small matrices of many layers at once, for accelerators, where launching an operation takes longer than computing it.

On a CPU, matrices are computed one after another, so that no more than one result takes memory at a time.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

_AT_ONCE = 2**21  # the most entries of a padded batch, 16 MiB in float64: some ten such tensors are held at a time


def is_on_cpu(a: Tensor) -> bool:
    """Return whether `a` is on the CPU.

    Elsewhere, control flow that depends on its values would need a synchronisation.
    """
    return a.device.type == "cpu"


def in_batches(
    function: Callable[..., Tensor], *matrices: Sequence[Tensor]
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Yield lists of indices, and of `function` of the matrices at these indices; each index comes exactly once.

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


def in_padded_batches(
    function: Callable[[Tensor], Tensor], squares: Sequence[Tensor], diagonal: float = 0.0
) -> Iterator[tuple[int, Tensor]]:
    """Yield pairs of an index and `function` of the square matrix at that index; each index comes exactly once.

    Matrices of similar size are padded to the largest of them, see `stacked`, and computed as one batch.

    Args:
        function: must work under `torch.vmap` and return a matrix of the argument's shape, of which the part without
            padding does not depend on the padding.
    """
    for numbers in similar([len(square) for square in squares]):
        results = torch.vmap(function)(stacked([squares[number] for number in numbers], diagonal))
        for number, result in zip(numbers, results, strict=True):
            n = len(squares[number])
            yield number, result[:n, :n]


def similar(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Divide square matrices of `sizes` into padded batches; yields the indices of each.

    In a batch, sizes differ by less than a factor of 2, and there are at most `_AT_ONCE` entries, or a single matrix.
    """
    batch: list[int] = []
    for number in sorted(range(len(sizes)), key=lambda n: -sizes[n]):
        largest = sizes[batch[0]] if batch else 0
        if batch and (2 * sizes[number] <= largest or (len(batch) + 1) * largest**2 > _AT_ONCE):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


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
