"""`method.init=output`: factors that start in the subspace of a layer's outputs on the calibration data."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from wasi.linalg.output_subspace import RIDGE, basis_from_inputs, basis_from_outputs, lost_output
from wasi.methods.calibration import Moments, observe_inputs

_ROWS = 4096  # tokens that are taken to float64 at a time


class OutputMoments:
    """Moments of what one weight `W` (`O x I`) sees, summed over all calls of all linears that share it.

    Kept in float64, of the inputs or of `W x`, whichever is narrower, until `factors` is called. Each bias has a
    mean of its own, which it can absorb; where there is no bias nothing can, and the moment stays uncentred.
    """

    def __init__(self, weight: Tensor):
        self.weight = weight.detach()
        self.of_outputs = weight.shape[0] < weight.shape[1]
        self._power: Tensor | float = 0.0  # of the inputs, summed over tokens
        self._moments: dict[int | None, Moments] = {}  # by the bias's id
        self._lost: dict[int | None, Tensor] = {}

    def add(self, x: Tensor, bias: Tensor | None) -> None:
        """One call's input, `[..., I]`."""
        moments = self._moments.setdefault(_key(bias), Moments())
        for rows in x.reshape(-1, x.shape[-1]).split(_ROWS):
            self._power = self._power + rows.double().square().sum()
            moments.add((rows @ self.weight.mT if self.of_outputs else rows).double())

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """`L` (`O x K`, orthonormal columns) and `R = L^T W` (`K x I`); lets go of the moments.

        Raises ValueError for inputs that are zero or not finite.
        """
        weight = self.weight.double()
        covariance, mean_square = self._pooled()
        if not mean_square > 0 or not mean_square.isfinite() or not covariance.isfinite().all():
            raise ValueError("its inputs are zero or not finite")
        basis = basis_from_outputs if self.of_outputs else basis_from_inputs
        left = basis(weight, covariance, RIDGE * mean_square, rank).contiguous()
        for key, moments in self._moments.items():
            output = moments.mean if self.of_outputs else weight @ moments.mean
            self._lost[key] = lost_output(left, output)
        self._moments.clear()
        return left.to(self.weight.dtype), (left.mT @ weight).to(self.weight.dtype)

    def absorbed(self, bias: Tensor) -> Tensor:
        """`bias` (`[O]`) plus what `factors` lost of the mean output that it was added to."""
        lost = self._lost.get(_key(bias), 0.0)  # nothing where its linear was never called
        return (bias.detach().double() + lost).to(bias.dtype)

    def _pooled(self) -> tuple[Tensor, Tensor]:
        """The moment over all tokens, and the inputs' mean square (a scalar)."""
        count = sum(moments.count for moments in self._moments.values())
        pooled = sum(
            moments.count / count * (moments.second if key is None else moments.covariance)
            for key, moments in self._moments.items()
        )
        return pooled, self._power / count / self.weight.shape[1]


def output_moments(
    model: nn.Module, linears: Mapping[str, nn.Linear], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[int, OutputMoments]:
    """By the weight's id, over all tokens of all batches; a weight that is never called is left out."""
    found: dict[int, OutputMoments] = {}
    names = {linear: name for name, linear in linears.items()}  # a linear under two names is looked at once
    once = {name: linear for linear, name in names.items()}

    def see(name: str, x: Tensor) -> None:
        linear = once[name]
        found.setdefault(id(linear.weight), OutputMoments(linear.weight)).add(x, linear.bias)

    observe_inputs(model, once, batches, see)
    return found


def _key(bias: Tensor | None) -> int | None:
    return None if bias is None else id(bias)
