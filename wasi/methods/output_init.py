"""`method.init=output`: factors that start in the subspace of a layer's outputs on the calibration data."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from wasi.linalg.output_subspace import RIDGE, basis_from_inputs, basis_from_outputs
from wasi.methods.calibration import in_chunks, observe_inputs
from wasi.methods.moments import Moments

_ROWS = 4096  # tokens that are taken to float64 at a time


class OutputMoments:
    """Moments of what one weight `W` (`O x I`) sees, summed over all calls of all linears that share it.

    Kept in float64, of the inputs or of `W x`, whichever is narrower, until `factors` is called. Each bias has a
    mean of its own, which it can absorb; where there is no bias nothing can, and the moment stays uncentred.
    Tokens can be given weights.
    """

    def __init__(self, weight: Tensor):
        self.weight = weight.detach()
        self.of_outputs = weight.shape[0] < weight.shape[1]
        self._power = torch.zeros(())  # of the inputs, summed over tokens
        self._inputs: dict[int | None, Tensor] = {}  # summed over tokens, by the bias's id
        self._moments: dict[int | None, Moments] = {}  # likewise
        self._lost: dict[int | None, Tensor] = {}

    @property
    def seen(self) -> bool:
        return bool(self._moments)

    def add(self, x: Tensor, bias: Tensor | None, weights: Tensor | None = None) -> None:
        """Add one call's input (`[..., I]`); `weights` (float64): how much each of its tokens counts, None = 1."""
        key, rows = _key(bias), x.reshape(-1, x.shape[-1])
        moments = self._moments.setdefault(key, Moments())
        weights = rows.new_ones(len(rows), dtype=torch.float64) if weights is None else weights
        for part, weight in zip(rows.split(_ROWS), weights.split(_ROWS), strict=True):
            wide = part.double()
            self._power = self._power + weight @ wide.square().sum(1)
            self._inputs[key] = self._inputs.get(key, 0.0) + weight @ wide
            moments.add((part @ self.weight.mT).double() if self.of_outputs else wide, weight)

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """`L` (`O x K`, orthonormal columns) and `R` (`K x I`). Once only: lets go of the moments and the weight.

        Raises ValueError for inputs that are zero or not finite.
        """
        weight = self.weight.double()
        left, right = self._truncate(weight, *self._pooled(), rank)
        for key, moments in self._moments.items():
            mean = self._inputs[key] / moments.count
            self._lost[key] = weight @ mean - left @ (right @ mean)
        dtype = self.weight.dtype
        self._moments.clear()
        self._inputs.clear()
        del self.weight
        return left.to(dtype).contiguous(), right.to(dtype)

    def absorbed(self, bias: Tensor) -> Tensor:
        """`bias` (`[O]`) plus what `factors` lost of the mean output that it was added to."""
        lost = self._lost.get(_key(bias), 0.0)  # nothing where its linear was never called
        return (bias.detach().double() + lost).to(bias.dtype)

    def _truncate(self, weight: Tensor, moment: Tensor, ridge: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """`L` and `R` (float64) from the pooled moment, of the inputs or of the outputs."""
        basis = basis_from_outputs if self.of_outputs else basis_from_inputs
        left = basis(weight, moment, ridge, rank)
        return left, left.mT @ weight

    def _pooled(self) -> tuple[Tensor, Tensor]:
        """The moment over all tokens, and the ridge that goes with it (a scalar)."""
        count = sum(moments.count for moments in self._moments.values())
        parts = (
            moments.count / count * (moments.second if key is None else moments.covariance)
            for key, moments in self._moments.items()
        )
        pooled = sum(parts, start=torch.zeros(()))
        mean_square = self._power / count / self.weight.shape[1]
        if not mean_square > 0 or not mean_square.isfinite() or not pooled.isfinite().all():
            raise ValueError("its inputs are zero or not finite")
        return pooled, self._ridge() * mean_square

    def _ridge(self) -> Tensor | float:
        """Share of the inputs' mean square that is added to the diagonal of their moment."""
        return RIDGE


def output_moments(
    model: nn.Module, linears: Mapping[str, nn.Linear], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[int, OutputMoments]:
    """Moments of every weight over all tokens of all batches, by its id; a weight that is never used is left out."""
    found: dict[int, OutputMoments] = {}
    names = {linear: name for name, linear in linears.items()}  # a linear under two names is looked at once
    once = {name: linear for linear, name in names.items()}

    def see(name: str, x: Tensor) -> None:
        linear = once[name]
        found.setdefault(id(linear.weight), OutputMoments(linear.weight)).add(x, linear.bias)

    observe_inputs(model, once, in_chunks(batches), see)
    return found


def _key(bias: Tensor | None) -> int | None:
    return None if bias is None else id(bias)
