"""Mean and second moments of the inputs of linear layers on calibration data."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from wasi.methods.calibration import in_chunks, observe_inputs
from wasi.models.mapped import in_file, release_pages


def added(total: Tensor, term: Tensor) -> Tensor:
    """Return `total + term`, computed in place unless `total` is a scalar, which is the zero that a sum starts from.

    Large sums are kept in a memory-mapped file, see `wasi.models.mapped.in_file`.
    """
    if total.dim() == 0:
        return in_file(total + term)
    total.add_(term)
    release_pages([total])
    return total


class Moments:
    """Mean and second moments of rows `z` (`n x D`), from running sums in the dtype and on the device of the rows."""

    def __init__(self) -> None:
        self.count: Tensor | int = 0
        self._sum = torch.zeros(())
        self._square = torch.zeros(())

    def add(self, rows: Tensor, weights: Tensor | None = None) -> None:
        """Add `rows` to the sums; `weights` (`[n]`) says how often each row counts, None meaning once."""
        weighed = rows if weights is None else rows * weights[:, None]
        self.count = self.count + (len(rows) if weights is None else weights.sum())
        self._sum = self._sum + weighed.sum(0)
        self._square = added(self._square, weighed.mT @ rows)

    @property
    def mean(self) -> Tensor:
        """The mean of the rows, `[D]`."""
        return self._sum / self.count

    @property
    def second(self) -> Tensor:
        """The uncentred second moment `E[z z^T]`, `D x D`, a new tensor."""
        found = self._square / self.count
        release_pages([self._square])
        return found

    def into_second(self) -> Tensor:
        """Return `second`, computed in place: the sums are overwritten, and no rows can be added afterwards."""
        self._square.div_(self.count)
        release_pages([self._square])
        return self._square

    @property
    def covariance(self) -> Tensor:
        """`E[(z - mean)(z - mean)^T]`, `D x D`."""
        return self.second - torch.outer(self.mean, self.mean)


def second_moments(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Return `X^T X / n` (`I x I`) of each layer's inputs, over all `n` tokens of all batches, by the layer's name.

    Layers that are never called are left out.
    """
    moments: dict[str, Moments] = {}

    def see(name: str, x: Tensor) -> None:
        moments.setdefault(name, Moments()).add(x.reshape(-1, x.shape[-1]))

    observe_inputs(model, layers, in_chunks(batches), see)
    return {name: seen.into_second() for name, seen in moments.items()}
