"""What a method may look at before training: a few fixed batches, and what each linear layer sees of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from wasi.data.loader import calibration_batches
from wasi.errors import UserError
from wasi.models.mapped import in_file, let_go
from wasi.models.modes import evaluating
from wasi.models.structure import find_blocks

CHUNK = 16  # images that go through the model at a time


class Calibration:
    """The same normalised batches of training data each time it is iterated.

    Iterating gives (float32 images `[B, 3, S, S]`, labels `[B]`) pairs.
    """

    def __init__(self, dataset, normalize: Callable[[Tensor], Tensor], batch_size: int, count: int, seed: int):
        self._dataset, self._normalize = dataset, normalize
        self._batch_size, self._count, self._seed = batch_size, count, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in calibration_batches(self._dataset, self._batch_size, self._count, self._seed):
            yield self._normalize(images), labels


def in_chunks(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The same images and labels, at most `CHUNK` at a time, for what only adds up over images."""
    for images, labels in batches:
        yield from zip(images.split(CHUNK), labels.split(CHUNK), strict=True)


def observe_inputs(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    see: Callable[[str, Tensor], None],
) -> None:
    """Run `batches` through the model in evaluation mode; `see(name, x)` at every call of each of `layers`."""
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: see(name, args[0]))
        for name, layer in layers.items()
    ]
    device = next(model.parameters()).device
    try:
        with evaluating(model):
            for images, _ in batches:
                model(images.to(device))
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def for_input_gradients(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for backward passes down to the images alone (`autograd.grad`), with one block's graph at a time.

    Each block keeps its input and runs again in the backward pass (arXiv 1604.06174); mapped weights leave when their
    block's turn is over. The gradients are those of an ordinary backward pass to the last bit. Tensor hooks that a
    forward pass sets fire once, in the repetition. Parameters get no gradient.
    """
    with ExitStack() as stack:
        for block in find_blocks(model).values():
            stack.callback(_put_back, block, vars(block).get("forward"))
            block.forward = _repeated(block, block.forward)
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.enable_grad())
        yield


def _repeated(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def run(x: Any, *args, **kwargs) -> Any:
        if not (isinstance(x, Tensor) and x.requires_grad) or _has_gradient((args, kwargs)):
            return forward(x, *args, **kwargs)  # nothing to repeat for, or a gradient that a repetition would lose
        # Not without gradients, where torch may choose other kernels; the graph goes at once.
        once = forward(x.detach().requires_grad_(), *args, **kwargs)
        if not isinstance(once, Tensor):
            return forward(x, *args, **kwargs)
        again, done = (lambda y: forward(y, *args, **kwargs)), (lambda: let_go(block.parameters()))
        return _Repeat.apply(x, once.detach(), again, done)

    return run


class _Repeat(torch.autograd.Function):
    """`y`, which is `run(x)`; in the backward pass that is computed again, and then `done` called."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, run: Callable[[Tensor], Tensor], done: Callable[[], None]) -> Tensor:
        ctx.run, ctx.done = run, done
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.run(x)
        (d_x,) = torch.autograd.grad(y, x, grad, allow_unused=True)
        ctx.done()
        return d_x, None, None, None


def _has_gradient(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.requires_grad
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return any(_has_gradient(part) for part in parts)


def _put_back(module: nn.Module, forward: Any) -> None:
    """Its class's `forward`, where None is given."""
    del module.forward
    if forward is not None:
        module.forward = forward


@contextmanager
def decomposing(name: str) -> Iterator[None]:
    """A ValueError inside, from a zero or non-finite input of layer `name`, becomes a UserError of `model.weights`."""
    try:
        yield
    except ValueError as error:
        allowed = f"one whose activations can be decomposed: {error}"
        raise UserError("model.weights", f"({name})", allowed) from error


def added(total: Tensor, term: Tensor) -> Tensor:
    """`total + term`, in the memory of `total` or, where that is a scalar, of its own; in a file where it is large."""
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
        """`weights` (`[n]`): how often each row counts; None = once."""
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
