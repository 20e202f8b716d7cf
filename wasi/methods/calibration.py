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
    """What a zero or non-finite input of layer `name` raises inside becomes a UserError of `model.weights`."""
    try:
        yield
    except (ValueError, torch.linalg.LinAlgError) as error:
        reason = f"its inputs are not finite ({error})" if isinstance(error, torch.linalg.LinAlgError) else error
        allowed = f"one whose activations can be decomposed: {reason}"
        raise UserError("model.weights", f"({name})", allowed) from error
