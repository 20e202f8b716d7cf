"""Mean and second moments of what linear layers see of calibration data."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from wasi.methods.calibration import in_chunks, observe_inputs
from wasi.models.mapped import in_file, let_go


def added(total: Tensor, term: Tensor) -> Tensor:
    """`total + term`, in place unless `total` is a scalar, the zero a sum begins with; in a file where it is large."""
    if total.dim() == 0:
        return in_file(total + term)
    total.add_(term)
    let_go([total])
    return total


class Moments:
    """Mean and second moments of rows `z` (`n x D`), from running sums in their precision and on their device."""

    def __init__(self) -> None:
        self.count: Tensor | int = 0
        self._sum = torch.zeros(())
        self._square = torch.zeros(())

    def add(self, rows: Tensor, weights: Tensor | None = None) -> None:
        """Add `rows` to the sums; `weights` (`[n]`): how often each row counts, None = once."""
        weighed = rows if weights is None else rows * weights[:, None]
        self.count = self.count + (len(rows) if weights is None else weights.sum())
        self._sum = self._sum + weighed.sum(0)
        self._square = added(self._square, weighed.mT @ rows)

    @property
    def mean(self) -> Tensor:
        """`[D]`."""
        return self._sum / self.count

    @property
    def second(self) -> Tensor:
        """`E[z z^T]`, `D x D`."""
        found = self._square / self.count
        let_go([self._square])
        return found

    def into_second(self) -> Tensor:
        """`second`, in the memory of the sums: nothing can be added any more."""
        self._square.div_(self.count)
        let_go([self._square])
        return self._square

    @property
    def covariance(self) -> Tensor:
        """`E[(z - mean)(z - mean)^T]`, `D x D`."""
        return self.second - torch.outer(self.mean, self.mean)


def second_moments(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Per layer `X^T X / n` (`I x I`) over all `n` tokens of all batches."""
    moments: dict[str, Moments] = {}

    def see(name: str, x: Tensor) -> None:
        moments.setdefault(name, Moments()).add(x.reshape(-1, x.shape[-1]))

    observe_inputs(model, layers, in_chunks(batches), see)
    return {name: seen.into_second() for name, seen in moments.items()}
