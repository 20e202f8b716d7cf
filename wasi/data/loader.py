"""Batches in an order that is a function of (seed, epoch) alone; the process's random state is never touched."""

import signal
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wasi.data.draws import generator, permutation
from wasi.errors import UserError

Batch = tuple[Tensor, Tensor]  # uint8 [B, 3, S, S], int64 [B]


def num_batches(dataset: Dataset, batch_size: int) -> int:
    """Batches per epoch, the last smaller one included."""
    return -(-len(dataset) // batch_size)


def train_batches(
    dataset: Dataset,
    batch_size: int,
    seed: int,
    epoch: int,
    start: int = 0,
    hflip: float = 0.0,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """One epoch, shuffled, from batch `start` on (those before are not loaded).

    Args:
        hflip: probability that an image is mirrored; drawn per image from (seed, epoch, batch).
    """
    order = permutation(len(dataset), "order", seed, epoch)
    batches = _load(dataset, order.split(batch_size)[start:], num_workers)
    for number, (images, labels) in enumerate(batches, start):
        if hflip > 0:
            mirrored = torch.rand(len(images), generator=generator("hflip", seed, epoch, number)) < hflip
            images[mirrored] = images[mirrored].flip(-1)
        yield images, labels


def first_batch(dataset: Dataset, cfg) -> Batch:
    """The batch that training with the configuration `cfg` begins with."""
    data = cfg.dataset
    return next(train_batches(dataset, data.batch_size, cfg.seed, 0, hflip=data.hflip))


def eval_batches(dataset: Dataset, batch_size: int, num_workers: int = 0) -> Iterator[Batch]:
    """All images once, in the data set's order."""
    return _load(dataset, torch.arange(len(dataset)).split(batch_size), num_workers)


def calibration_batches(dataset: Dataset, batch_size: int, count: int, seed: int) -> Iterator[Batch]:
    """The same `count` batches of distinct images for a seed, unmirrored.

    Raises UserError when the data set has fewer.
    """
    available = num_batches(dataset, batch_size)
    if count > available:
        raise UserError("rank.calibration_batches", count, f"at most {available} (batches in the training images)")
    order = permutation(len(dataset), "calibration", seed)
    return _load(dataset, order.split(batch_size)[:count], num_workers=0)


def _load(dataset: Dataset, batches: tuple[Tensor, ...], num_workers: int) -> Iterator[Batch]:
    loader = DataLoader(
        dataset,
        batch_sampler=[indices.tolist() for indices in batches],
        num_workers=num_workers,
        generator=generator("workers"),  # else the loader draws its workers' seed from the global one
        worker_init_fn=_leave_signals_to_parent if num_workers else None,
    )
    return map(tuple, loader)


def _leave_signals_to_parent(worker: int) -> None:
    """Ctrl-C reaches the whole process group; the parent ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
