"""`method.init=features`: factors that start where the model's final features need a layer most.

`method.init=output` counts every direction of a layer's outputs, at every token, alike. Most of them do not reach
what the head sees: in the last block only the class token does. So here a layer's error is weighed by how much the
features (the head's input) would move, to first order. With `g` the gradient of `v . features` with respect to the
layer's output for a random `v ~ N(0, I)` of each image, `E g g^T` is `E J^T J` of the Jacobian `J` from the output
to the features. As K-FAC does with curvature, the error of a weight `W'` is taken to factor into

    E[|g|^2 |(W' - W)(x - mean)|_S^2],   S = E g g^T,

tokens weighed by `|g|^2` and outputs by `S`. `linalg.output_subspace` finds the best `W'` of rank `K`, exactly.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from wasi.errors import UserError
from wasi.linalg.output_subspace import (
    damages_from_inputs,
    damages_from_outputs,
    project_inputs,
    project_outputs,
)
from wasi.methods.block_repeats import for_input_gradients
from wasi.methods.calibration import decomposing, in_chunks
from wasi.methods.moments import added
from wasi.methods.output_init import OutputMoments
from wasi.models.mapped import let_go
from wasi.models.structure import head_module

# Share of its mean that is added to the diagonal of `S`, which comes from few images while training moves the
# features.
_DAMPING = 0.3


class FeatureMoments(OutputMoments):
    """`OutputMoments` with what the features' gradient says of tokens and outputs."""

    def __init__(self, weight: Tensor):
        super().__init__(weight)
        self._sensitivity = torch.zeros(())  # sum of g g^T, or of (W^T g)(W^T g)^T, the narrower
        self._size = torch.zeros(())  # sum of |g|^2
        self._squared_size = torch.zeros(())  # sum of |g|^4

    def observe(self, x: Tensor, bias: Tensor | None, grad: Tensor) -> None:
        """Add one call's input (`[..., I]`), and `g` at its output (`[..., O]`). ValueError where `g` is not finite."""
        rows = grad.reshape(-1, grad.shape[-1])
        weights = rows.double().square().sum(-1)
        size = weights.sum()
        if not size.isfinite():
            raise ValueError("the features' gradient at its output is not finite")
        if size == 0:
            return
        self.add(x, bias, weights)
        narrow = (rows if self.of_outputs else rows @ self.weight).double()
        self._sensitivity = added(self._sensitivity, narrow.mT @ narrow)
        self._size = self._size + size
        self._squared_size = self._squared_size + weights.square().sum()

    def damages(self) -> Tensor:
        """What leaving out each direction of the weight adds to the features' squared error, non-increasing.

        `[min(O, I)]`, float64, by the module's equation. It is a sum over all images and tokens seen and not
        normalised, so that layers that saw the same images can be compared. Raises ValueError as `factors` does.
        """
        estimate = damages_from_outputs if self.of_outputs else damages_from_inputs
        moment, ridge = self._pooled()
        found = estimate(self.weight.double(), moment, self._sensitivity, ridge, self._damping())
        let_go([self._sensitivity])
        return found

    def _truncate(self, weight: Tensor, moment: Tensor, ridge: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        project = project_outputs if self.of_outputs else project_inputs
        left, right = project(weight, moment, self._sensitivity, ridge, self._damping(), rank)
        self._sensitivity = torch.zeros(())
        return left, right

    def _ridge(self) -> Tensor:
        """As if one more token of no preferred direction had been seen.

        Of `n` tokens that count alike that is `1 / n`; weighed ones are as good as `(sum w)^2 / sum w^2` of them
        (Kish 1965). In a last block that is one token an image, often fewer than there are directions: without a
        ridge, those that none of them touches would seem to do no damage.
        """
        return self._squared_size / self._size**2

    def _damping(self) -> Tensor:
        return _DAMPING * self._size / self.weight.shape[0]


def feature_moments(
    model: nn.Module, linears: Mapping[str, nn.Linear], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[int, FeatureMoments]:
    """Moments of every weight over all batches, by its id; a weight that does not reach the features is left out.

    Raises UserError for a model whose classifier is never called, and for a layer whose input or gradient is not
    finite.
    """
    found: dict[int, FeatureMoments] = {}
    names = {linear: name for name, linear in linears.items()}  # a linear under two names is looked at once
    features: list[Tensor] = []

    def called(linear: nn.Linear, args: tuple[Tensor], output: Tensor) -> Tensor:
        x = args[0].detach()
        with decomposing(names[linear]):
            if not x.isfinite().all():
                raise ValueError("its inputs are not finite")

        def see(grad: Tensor) -> None:  # as soon as it is known, so that gradients are held one at a time
            with decomposing(names[linear]):
                found.setdefault(id(linear.weight), FeatureMoments(linear.weight)).observe(x, linear.bias, grad)

        output = output.clone()  # no view, which would lose its hook to an activation in place
        if output.requires_grad:
            output.register_hook(see)
        return output

    def fed(head: nn.Module, args: tuple[Tensor]) -> None:
        if args[0].requires_grad:
            features.append(args[0])

    head = head_module(model)
    heads = head if isinstance(head, nn.ModuleList) else [head]
    hooks = [linear.register_forward_hook(called) for linear in names]
    hooks += [each.register_forward_pre_hook(fed) for each in heads]
    device, generator = next(model.parameters()).device, torch.Generator().manual_seed(0)
    try:
        with for_input_gradients(model):
            for images, _ in in_chunks(batches):
                images = images.to(device).detach().requires_grad_()  # reaches layers that are frozen, too
                model(images)
                _pull(features, images, generator)
                features.clear()
    finally:
        for hook in hooks:
            hook.remove()
    return {key: moments for key, moments in found.items() if moments.seen}


def _pull(features: list[Tensor], images: Tensor, generator: torch.Generator) -> None:
    """The backward pass of `v . features`, of the images alone so that no parameter's gradient is formed."""
    if not features:
        allowed = "svd or output for a model that does not call its classifier on what its blocks compute"
        raise UserError("method.init", "features", allowed)
    probes = [torch.randn(f.shape, generator=generator, dtype=f.dtype).to(f.device) for f in features]
    torch.autograd.grad(features, images, probes, allow_unused=True)
