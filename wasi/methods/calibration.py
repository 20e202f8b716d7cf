"""Calibration data, which methods may use before training, and the inputs of linear layers on it."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from wasi.data.loader import calibration_batches, num_batches
from wasi.errors import UserError
from wasi.models.modes import eval_mode

log = logging.getLogger(__name__)

CHUNK = 16  # images per forward pass, to bound the memory of activations


class Calibration:
    """An iterable of normalised training batches, the same ones in every iteration.

    It yields pairs of float32 images `[B, 3, S, S]` and labels `[B]`.

    Args:
        dataset: the training images (uint8).
        normalize: maps uint8 images to float32.
        count: number of batches; all that the images make, with a warning, if there are fewer.
        seed: selects the images and their order.
    """

    def __init__(self, dataset, normalize: Callable[[Tensor], Tensor], batch_size: int, count: int, seed: int):
        self._dataset, self._normalize = dataset, normalize
        self._batch_size, self._count, self._seed = batch_size, count, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        available = num_batches(self._dataset, self._batch_size)
        if self._count > available:
            text = "rank.calibration_batches=%d: there are %d training images, so %d at dataset.batch_size=%d"
            log.warning(text, self._count, len(self._dataset), available, self._batch_size)
            self._count = available  # so that it is told once, as methods iterate several times
        for images, labels in calibration_batches(self._dataset, self._batch_size, self._count, self._seed):
            yield self._normalize(images), labels


def calibration_of(cfg, dataset, normalize: Callable[[Tensor], Tensor]) -> Calibration:
    """Return the batches of the configuration `cfg`: as many as its method asks for."""
    count = cfg.method.get("calibration_batches", cfg.rank.calibration_batches)
    return Calibration(dataset, normalize, cfg.dataset.batch_size, count, cfg.seed)


def refuse_iterator(batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Refuse batches that can be read only once, for methods that read them several times.

    Raises:
        TypeError: `batches` is an iterator, such as a generator.
    """
    if isinstance(batches, Iterator):
        raise TypeError("the calibration batches are read several times, so they cannot be an iterator: give a list")


def checked(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the calibration batches.

    Raises:
        TypeError: one of them is no pair.
        ValueError: there is none.
    """
    empty = True
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(f"a calibration batch is a pair of images and labels, not a {type(batch).__name__}")
        empty = False
        yield batch[0], batch[1]
    if empty:
        raise ValueError("there is no calibration batch")


def in_chunks(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Split `batches` into pieces of at most `CHUNK` images, for quantities that are sums over images."""
    for images, labels in checked(batches):
        yield from zip(images.split(CHUNK), labels.split(CHUNK), strict=True)


def observe_inputs(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    see: Callable[[str, Tensor], None],
) -> None:
    """Run `batches` through the model in evaluation mode, without gradients, and report the inputs of `layers`.

    Args:
        layers: name -> module of the model.
        see: called as `see(name, x)` with the input `x` at every call of each of `layers`.
    """
    device = next(model.parameters()).device
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(layer.register_forward_pre_hook(lambda _, args, name=name: see(name, args[0])))
        stack.enter_context(eval_mode(model))
        for images, _ in batches:
            model(images.to(device))


@contextmanager
def refusing_undecomposable(name: str) -> Iterator[None]:
    """Turn what decompositions raise on zero or non-finite inputs of layer `name` into a UserError.

    Raises:
        UserError: of `model.weights`, in place of a ValueError or `LinAlgError` raised inside the context.
    """
    try:
        yield
    except (ValueError, torch.linalg.LinAlgError) as error:
        reason = f"its inputs are not finite ({error})" if isinstance(error, torch.linalg.LinAlgError) else error
        allowed = f"one whose activations can be decomposed: {reason}"
        raise UserError("model.weights", f"({name})", allowed) from error
