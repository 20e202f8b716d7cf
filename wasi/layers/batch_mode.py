"""The batch modes of many saved inputs, decomposed together."""

from collections.abc import Iterator
from itertools import count
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from wasi.linalg import tucker


class BatchMode:
    """The decomposition of the batch mode of one saved input, exact, made when it is first read.

    A backward pass reads it; by then the other layers' inputs wait too, and those of one shape are decomposed in
    one operation. One by one, between large products, they would find cold caches: a 32 x 32 `eigh` takes 300 us
    then instead of 50. What is never read is never decomposed.

    Args:
        shrunk: the input with its other modes cut, `[B, r_1, ..., r_m]`; rank: below `B`.
    """

    def __init__(self, shrunk: Tensor, rank: int):
        self._shrunk, self._rank = shrunk, rank
        self._found: tuple[Tensor, Tensor] | None = None
        self._number = next(_numbers)
        _waiting[self._number] = self

    def read(self) -> tuple[Tensor, Tensor]:
        """Core (`[r, r_1, ..., r_m]`) and factor of the batch mode (`B x r`)."""
        if self._found is None:
            _waiting.pop(self._number, None)
            _decompose([self, *_take_like(self)])
        return self._found

    def _kind(self) -> tuple:
        return self._shrunk.shape, self._shrunk.dtype, self._shrunk.device, self._rank


# Weak, so that a graph which is dropped without a backward pass takes its inputs along.
_waiting: WeakValueDictionary[int, BatchMode] = WeakValueDictionary()
_numbers = count()


def _take_like(mode: BatchMode) -> Iterator[BatchMode]:
    for number, other in list(_waiting.items()):
        if other._kind() == mode._kind():
            del _waiting[number]
            yield other


def _decompose(modes: list[BatchMode]) -> None:
    """Raises LinAlgError where one of them is not finite."""
    rows = torch.stack([mode._shrunk.flatten(1) for mode in modes])
    factors = tucker.batch_factors(rows, modes[0]._rank)
    cores = factors.mT @ rows
    for mode, core, factor in zip(modes, cores, factors, strict=True):
        mode._found = core.view(-1, *mode._shrunk.shape[1:]), factor
        mode._shrunk = None
