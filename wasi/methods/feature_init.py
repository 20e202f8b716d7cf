"""`method.init=features`: factors that start where the model's final features need a layer most.

`method.init=output` counts every direction of a layer's outputs, at every token, alike. Most of them do not reach
what the head sees: in the last block only the class token does. So here a layer's error is weighed by how much the
features (the head's input) would move, to first order. With `g` the gradient of `v . features` with respect to the
layer's output for a random `v ~ N(0, I)` of each image, `E g g^T` is `E J^T J` of the Jacobian `J` from the output
to the features. As K-FAC does with curvature, the error of a weight `W'` is taken to factor into

    E[|g|^2 |(W' - W)(x - mean)|_S^2],   S = E g g^T,

tokens weighed by `|g|^2` and outputs by `S`; the best `W'` of rank `K` is found exactly (`linalg.output_subspace`).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wasi.errors import UserError
from wasi.linalg.output_subspace import project_inputs, project_outputs
from wasi.methods.output_init import OutputMoments
from wasi.models.structure import head_module

# Share of its mean that is added to the diagonal of `S`: it comes from few images, and training moves the features.
_DAMPING = 0.1
_IMAGES = 8  # whose graph is held at a time


class FeatureMoments(OutputMoments):
    """`OutputMoments` with what the features' gradient says of tokens and outputs."""

    def __init__(self, weight: Tensor):
        super().__init__(weight)
        self._sensitivity: Tensor | float = 0.0  # sum of g g^T, or of (W^T g)(W^T g)^T, the narrower
        self._size = 0.0  # sum of |g|^2

    def observe(self, x: Tensor, bias: Tensor | None, grad: Tensor) -> None:
        """One call's input, `[..., I]`, and `g` at its output, `[..., O]`."""
        rows = grad.reshape(-1, grad.shape[-1])
        weights = rows.double().square().sum(-1)
        if not weights.any():
            return
        self.add(x, bias, weights)
        narrow = (rows if self.of_outputs else rows @ self.weight).double()
        self._sensitivity = self._sensitivity + narrow.mT @ narrow
        self._size = self._size + weights.sum()

    def _truncate(self, weight: Tensor, moment: Tensor, ridge: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        if not self._sensitivity.isfinite().all():
            raise ValueError("the features' gradient at its output is not finite")
        damping = _DAMPING * self._size / weight.shape[0]
        project = project_outputs if self.of_outputs else project_inputs
        left, right = project(weight, moment, self._sensitivity, ridge, damping, rank)
        self._sensitivity = 0.0
        return left, right


def feature_moments(
    model: nn.Module, linears: Mapping[str, nn.Linear], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[int, FeatureMoments]:
    """By the weight's id, over all batches; a weight that does not reach the features is left out.

    Raises UserError for a model whose classifier is never called.
    """
    found: dict[int, FeatureMoments] = {}
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    with _recorded(model, set(linears.values())) as (calls, features):
        for images, _ in batches:
            for part in images.split(_IMAGES):
                calls.clear(), features.clear()
                model(part.to(device))
                for (linear, x, _), grad in zip(calls, _gradients(calls, features, generator), strict=True):
                    if grad is not None:
                        moments = found.setdefault(id(linear.weight), FeatureMoments(linear.weight))
                        moments.observe(x, linear.bias, grad)
    return {key: moments for key, moments in found.items() if moments.seen}


def _gradients(calls: list, features: list[Tensor], generator: torch.Generator) -> tuple[Tensor | None, ...]:
    """Of `v . features` with respect to each call's output."""
    if not features:
        raise UserError("method.init", "features", "svd or output for a model that does not call its classifier")
    probes = [torch.randn(f.shape, generator=generator, dtype=f.dtype).to(f.device) for f in features]
    return torch.autograd.grad(features, [out for _, _, out in calls], probes, allow_unused=True)


@contextmanager
def _recorded(model: nn.Module, linears: set[nn.Linear]) -> Iterator[tuple[list, list[Tensor]]]:
    """In evaluation mode: each call of one of `linears` as (it, input, output), and each input of the classifier."""
    calls: list[tuple[nn.Linear, Tensor, Tensor]] = []
    features: list[Tensor] = []

    def called(linear: nn.Linear, args: tuple[Tensor], output: Tensor) -> None:
        calls.append((linear, args[0].detach(), output))

    head = head_module(model)
    heads = list(head) if isinstance(head, nn.ModuleList) else [head]
    hooks = [linear.register_forward_hook(called) for linear in linears]
    hooks += [h.register_forward_pre_hook(lambda _, args: features.append(args[0])) for h in heads]
    training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            yield calls, features
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
