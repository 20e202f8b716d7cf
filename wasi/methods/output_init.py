"""`method.init=output`: initial factors that preserve a layer's outputs on the calibration data best."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from wasi.linalg.output_subspace import RIDGE, project
from wasi.methods.calibration import in_chunks, observe_inputs
from wasi.methods.moments import Moments

_ROWS = 4096  # tokens that are converted to float64 at a time


class OutputMoments:
    """Moments of the inputs of one weight `W` (`O x I`), over all calls of all linear layers that share it.

    Float64 sums of the inputs `x` or of the outputs `W x`, whichever are narrower, until `factors` is called. They
    are kept apart by bias: a bias can absorb the mean error of its layer's output (`absorbed`), so its moments are
    centred; those of layers without a bias are not. Tokens can be weighted.
    """

    def __init__(self, weight: Tensor):
        self.weight = weight.detach()
        self.of_outputs = weight.shape[0] < weight.shape[1]
        self._power = torch.zeros(())  # sum of |x|^2
        self._inputs: dict[int | None, Tensor] = {}  # sums of x, by the bias's id
        self._moments: dict[int | None, Moments] = {}  # of x or W x, by the bias's id
        self._lost: dict[int | None, Tensor] = {}  # mean of (W - L R) x, by the bias's id

    @property
    def seen(self) -> bool:
        """Whether any input was added."""
        return bool(self._moments)

    def add(self, x: Tensor, bias: Tensor | None, weights: Tensor | None = None) -> None:
        """Add one call's input (`[..., I]`); `weights` (`[tokens]`, float64) weighs its tokens, None meaning 1 each."""
        key, rows = _key(bias), x.reshape(-1, x.shape[-1])
        moments = self._moments.setdefault(key, Moments())
        weights = rows.new_ones(len(rows), dtype=torch.float64) if weights is None else weights
        for part, weight in zip(rows.split(_ROWS), weights.split(_ROWS), strict=True):
            wide = part.double()
            self._power = self._power + weight @ wide.square().sum(1)
            self._inputs[key] = self._inputs.get(key, 0.0) + weight @ wide
            moments.add((part @ self.weight.mT).double() if self.of_outputs else wide, weight)

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return `L` (`O x K`, orthonormal columns) and `R` (`K x I`) that minimise the output error.

        Can be called once only, as it frees the moments and the reference to the weight.

        Raises:
            ValueError: the inputs are zero or not finite.
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
        """Return `bias` (`[O]`) plus its layers' mean error `(W - L R) E[x]`; `factors` must have been called."""
        lost = self._lost.get(_key(bias), 0.0)  # 0 if its layer was never called
        return (bias.detach().double() + lost).to(bias.dtype)

    def _truncate(self, weight: Tensor, moment: Tensor, ridge: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """Return `L` and `R` (float64) from the pooled moment of the inputs or outputs, see `_pooled`."""
        left, _ = project(weight, moment, torch.zeros(()), ridge, torch.ones(()), self.of_outputs, rank)  # H = Id
        return left, left.mT @ weight  # equals the `R` of `project`, without its rounding where `Cov` is near-singular

    def _pooled(self) -> tuple[Tensor, Tensor]:
        """Return the moment over all tokens, and the ridge (a scalar) to add to the diagonal of the inputs' moment."""
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
        """Return the ridge relative to the inputs' mean square."""
        return RIDGE


def output_moments(
    model: nn.Module, linears: Mapping[str, nn.Linear], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[int, OutputMoments]:
    """Return the moments of every weight over all batches, by the weight's id; unused weights are left out."""
    found: dict[int, OutputMoments] = {}
    names = {linear: name for name, linear in linears.items()}  # a module registered under two names is observed once
    once = {name: linear for linear, name in names.items()}

    def see(name: str, x: Tensor) -> None:
        linear = once[name]
        found.setdefault(id(linear.weight), OutputMoments(linear.weight)).add(x, linear.bias)

    observe_inputs(model, once, in_chunks(batches), see)
    return found


def _key(bias: Tensor | None) -> int | None:
    return None if bias is None else id(bias)
