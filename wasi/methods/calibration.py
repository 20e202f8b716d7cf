"""What a method may look at before training: a few fixed batches, and what each linear layer sees of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wasi.data.loader import calibration_batches
from wasi.errors import UserError
from wasi.models.modes import evaluating

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
def decomposing(name: str) -> Iterator[None]:
    """A ValueError inside, from a zero or non-finite input of layer `name`, becomes a UserError of `model.weights`."""
    try:
        yield
    except ValueError as error:
        allowed = f"one whose activations can be decomposed: {error}"
        raise UserError("model.weights", f"({name})", allowed) from error


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
        self._square = self._square + weighed.mT @ rows

    @property
    def mean(self) -> Tensor:
        """`[D]`."""
        return self._sum / self.count

    @property
    def second(self) -> Tensor:
        """`E[z z^T]`, `D x D`."""
        return self._square / self.count

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
    return {name: seen.second for name, seen in moments.items()}
