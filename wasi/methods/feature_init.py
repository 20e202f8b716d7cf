"""`method.init=features`: initial factors whose error changes the model's final features least.

`method.init=output` weighs all directions of a layer's outputs, at all tokens, alike, although most of them do not
reach the head: in the last block only the class token does. Here the error of a layer is weighed by how much it moves
the features (the head's input), to first order. Let `g` be the gradient of `v . features` with respect to the
layer's output, with a random `v ~ N(0, I)` per image. Then `E g g^T` equals `E J^T J` for the Jacobian `J` of the
features with respect to the output. As in K-FAC's approximation of the curvature, the error of a weight `W'` is
assumed to factor into

    E[|g|^2 |(W' - W)(x - mean)|_H^2],   H = E g g^T,

with tokens weighted by `|g|^2` and outputs by `H`. `linalg.output_subspace` computes the best `W'` of rank `K` exactly.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from wasi.errors import UserError
from wasi.linalg.output_subspace import direction_losses, project
from wasi.methods.calibration import in_chunks, refusing_undecomposable
from wasi.methods.input_gradients import for_input_gradients
from wasi.methods.moments import added
from wasi.methods.output_init import OutputMoments
from wasi.models.mapped import release_pages
from wasi.models.structure import head_module

# Added to the diagonal of `H`, relative to its mean: `H` is estimated from few images, and training changes the
# features.
_DAMPING = 0.3


class FeatureMoments(OutputMoments):
    """`OutputMoments` whose tokens are weighted by the features' gradient `g`, and the second moment of `g`.

    See the module's docstring for `g` and the error that is minimised.
    """

    def __init__(self, weight: Tensor):
        super().__init__(weight)
        self._sensitivity = torch.zeros(())  # sum of g g^T, or of (W^T g)(W^T g)^T, the narrower
        self._size = torch.zeros(())  # sum of |g|^2
        self._squared_size = torch.zeros(())  # sum of |g|^4

    def observe(self, x: Tensor, bias: Tensor | None, grad: Tensor) -> None:
        """Add one call's input (`[..., I]`) and the gradient `g` at its output (`[..., O]`).

        Raises:
            ValueError: `g` is not finite.
        """
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

    def direction_losses(self) -> Tensor:
        """Return what dropping each direction of the weight adds to the features' squared error, non-increasing.

        The result is `[min(O, I)]`, float64, by the equation in the module's docstring. It is a sum over all images
        and tokens, not normalised, so that layers that processed the same images can be compared.

        Raises:
            ValueError: the inputs are zero or not finite.
        """
        moment, ridge = self._pooled()
        weight, damping = self.weight.double(), self._damping()
        found = direction_losses(weight, moment, self._sensitivity, ridge, damping, self.of_outputs)
        release_pages([self._sensitivity])
        return found

    def _truncate(self, weight: Tensor, moment: Tensor, ridge: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        found = project(weight, moment, self._sensitivity, ridge, self._damping(), self.of_outputs, rank)
        self._sensitivity = torch.zeros(())
        return found

    def _ridge(self) -> Tensor:
        """Return `1 / n` for `n` effective tokens: a prior as if one more token had no preferred direction.

        For tokens of weights `w` it is `n = (sum w)^2 / sum w^2` (Kish 1965). In the last block that is one token per
        image, often fewer than there are directions. Without a ridge, directions in which no token has a component
        would seem to be free to drop.
        """
        return self._squared_size / self._size**2

    def _damping(self) -> Tensor:
        return _DAMPING * self._size / self.weight.shape[0]


def feature_moments(
    model: nn.Module, linears: Mapping[str, nn.Linear], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[int, FeatureMoments]:
    """Return the moments of every weight over all batches, by the weight's id.

    Weights without influence on the features are left out.

    Raises:
        UserError: the model never calls its classifier, or a layer's input or gradient is not finite.
    """
    found: dict[int, FeatureMoments] = {}
    names = {linear: name for name, linear in linears.items()}  # a module registered under two names is observed once
    features: list[Tensor] = []

    def called(linear: nn.Linear, args: tuple[Tensor], output: Tensor) -> Tensor:
        x = args[0].detach()
        with refusing_undecomposable(names[linear]):
            if not x.isfinite().all():
                raise ValueError("its inputs are not finite")

        def see(grad: Tensor) -> None:  # during the backward pass, so that only one gradient is held at a time
            with refusing_undecomposable(names[linear]):
                found.setdefault(id(linear.weight), FeatureMoments(linear.weight)).observe(x, linear.bias, grad)

        output = output.clone()  # an in-place activation would detach the hook from a view
        if output.requires_grad:
            output.register_hook(see)
        return output

    def fed(head: nn.Module, args: tuple[Tensor]) -> None:
        if args[0].requires_grad:
            features.append(args[0])

    head = head_module(model)
    heads = head if isinstance(head, nn.ModuleList) else [head]
    device, generator = next(model.parameters()).device, torch.Generator().manual_seed(0)
    with ExitStack() as stack:
        for linear in names:
            stack.enter_context(linear.register_forward_hook(called))
        for each in heads:
            stack.enter_context(each.register_forward_pre_hook(fed))
        stack.enter_context(for_input_gradients(model))
        for images, _ in in_chunks(batches):
            images = images.to(device).detach().requires_grad_()  # so that frozen layers get output gradients too
            model(images)
            _pull(features, images, generator)
            features.clear()
    return {key: moments for key, moments in found.items() if moments.seen}


def _pull(features: list[Tensor], images: Tensor, generator: torch.Generator) -> None:
    """Backpropagate a random `v . features` to the images alone, so that no parameter's gradient is formed.

    Raises:
        UserError: `features` is empty, as the model never called its classifier on something that needs a gradient.
    """
    if not features:
        allowed = "svd or output for a model that does not call its classifier on what its blocks compute"
        raise UserError("method.init", "features", allowed)
    probes = [torch.randn(f.shape, generator=generator, dtype=f.dtype).to(f.device) for f in features]
    torch.autograd.grad(features, images, probes, allow_unused=True)
