"""Batches in an order that is a function of (seed, epoch) alone; the process's random state is never touched."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wasi.data.arrays import ArrayImages
from wasi.data.augment import AugmentedImages
from wasi.data.draws import generator, permutation
from wasi.data.spec import Images
from wasi.errors import UserError

Batch = tuple[Tensor, Tensor]  # uint8 [B, 3, S, S], int64 [B] or, mixed, float32 [B, C]
Part = Callable[[Tensor], Tensor]  # of the positions in a batch, int64 [B], a stretch; it may be empty
SMALL = 2**30  # bytes of images that may live on a GPU
_MOST_WORKERS = 16
_CPU = torch.device("cpu")


def _all(positions: Tensor) -> Tensor:
    return positions


class Loader:
    """Batches of one data set, the images on `device`.

    Images held in memory are resized where they are used: on a GPU, where a small set lives in its published bytes.
    Files, and what is augmented, come through worker processes, and for a GPU from pinned memory.

    Args:
        num_workers: processes that decode and augment; None: as many as that needs, 2 or, for a GPU, one per core up to
            16, and none for images held in memory. See `workers_of` for a run's.
        persistent: whether they live as long as this object, or as one pass over the data.
        resident: whether a small set may live on a GPU; otherwise each batch is brought there.
    """

    def __init__(
        self,
        dataset: Images,
        num_workers: int | None = 0,
        device: torch.device = _CPU,
        resident: bool = True,
        persistent: bool = True,
    ):
        self._device = device
        gpu = device.type != "cpu"
        if num_workers is None and isinstance(dataset, ArrayImages):
            num_workers = 0
        elif num_workers is None:
            num_workers = min(_MOST_WORKERS, len(os.sched_getaffinity(0))) if gpu else 2
        self._arrays: ArrayImages | None = None  # where no worker process is needed
        if isinstance(dataset, ArrayImages) and (gpu or num_workers == 0):
            self._arrays = dataset.to(device) if gpu and resident and dataset.images.nbytes <= SMALL else dataset
        self.dataset: Images = dataset if self._arrays is None else self._arrays
        self._items: list[list[int]] = []  # of every batch of the present pass
        self._loader = None if self._arrays is not None else DataLoader(
            cast(Dataset, dataset),
            batch_sampler=self._items,
            num_workers=num_workers,
            persistent_workers=persistent and num_workers > 0,
            pin_memory=gpu,
            generator=generator("workers"),  # else the loader draws its workers' seed from the global one
            worker_init_fn=_leave_signals_to_parent if num_workers else None,
        )  # fmt: skip

    def load(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """The items of each of `batches` (int64); one pass at a time."""
        if self._arrays is not None:
            for indices in batches:
                yield self._arrays.batch(indices, self._device)
            return
        assert self._loader is not None
        self._items[:] = [indices.tolist() for indices in batches]
        for images, labels in self._loader:
            yield images.to(self._device, non_blocking=True), labels


def workers_of(cfg, device: torch.device) -> int | None:
    """`dataset.num_workers` of the configuration `cfg`, where null is 0 for `train.memory=lean` on a CPU.

    A worker process holds on to the memory that it was started with: to all weights as they were then, while training
    replaces them in this one.
    """
    scarce = cfg.train.get("memory") == "lean" and device.type == "cpu"
    return 0 if scarce and cfg.dataset.num_workers is None else cfg.dataset.num_workers


def num_batches(dataset: Images, batch_size: int) -> int:
    """Batches per epoch, the last smaller one included."""
    return -(-len(dataset) // batch_size)


def train_batches(
    images: Images | Loader,
    batch_size: int,
    seed: int,
    epoch: int,
    start: int = 0,
    hflip: float = 0.0,
    num_workers: int | None = 0,
    mix: Callable[..., Batch] | None = None,
    part: Part = _all,
) -> Iterator[Batch]:
    """One epoch, shuffled, from batch `start` on (those before are not loaded).

    Args:
        hflip: probability that an image is mirrored; drawn per image from (seed, epoch, batch).
        mix: of images and labels of a batch, see `batch_mix`.
        part: of every batch, what is loaded; images and labels are, to the bit, those that the whole batch has there.
    """
    loader = _loader(images, num_workers)
    order = permutation(len(loader.dataset), "order", seed, epoch)
    if isinstance(loader.dataset, AugmentedImages):
        order = order + epoch * len(order)
    whole = order.split(batch_size)[start:]
    places = [_places(len(items), part, with_neighbour=mix is not None) for items in whole]
    loaded = loader.load([items[place] for items, (place, _) in zip(whole, places, strict=True)])
    parts = zip(loaded, whole, places, strict=True)
    for number, ((batch, labels), items, (place, others)) in enumerate(parts, start):
        if hflip > 0:
            mirrored = torch.rand(len(items), generator=generator("hflip", seed, epoch, number)) < hflip
            rows = mirrored[place].nonzero().flatten().to(batch.device)
            batch[rows] = batch[rows].flip(-1)
        if mix is not None:
            batch, labels = mix(batch, labels, seed, epoch, number)
        yield batch[others:], labels[others:]


def _places(count: int, part: Part, with_neighbour: bool = False) -> tuple[Tensor, int]:
    """Which of a batch's `count` images are loaded, and how many of them, the first ones, are not asked for.

    One of these may be needed: mixing takes each image together with the one before it, the first with the last, and
    no loader makes a batch of nothing.
    """
    own = part(torch.arange(count))
    if len(own) == count or (len(own) and not with_neighbour):
        return own, 0
    first = int(own[0]) if len(own) else 0
    return torch.cat([torch.tensor([(first - 1) % count]), own]), 1


def first_batch(dataset: Images, cfg) -> Batch:
    """The batch that training with the configuration `cfg` begins with, not augmented but for mirror images."""
    data = cfg.dataset
    return next(train_batches(dataset, data.batch_size, cfg.seed, 0, hflip=data.hflip))


def eval_batches(
    images: Images | Loader, batch_size: int, num_workers: int | None = 0, part: Part = _all
) -> Iterator[Batch]:
    """All images once, in the data set's order; of every batch the `part` that is asked for."""
    loader = _loader(images, num_workers)
    whole = torch.arange(len(loader.dataset)).split(batch_size)
    places = [_places(len(items), part) for items in whole]
    loaded = loader.load([items[place] for items, (place, _) in zip(whole, places, strict=True)])
    for (batch, labels), (_, others) in zip(loaded, places, strict=True):
        yield batch[others:], labels[others:]


def calibration_batches(dataset: Images, batch_size: int, count: int, seed: int) -> Iterator[Batch]:
    """The same `count` batches of distinct images for a seed, unmirrored.

    Raises UserError when the data set has fewer.
    """
    available = num_batches(dataset, batch_size)
    if count > available:
        raise UserError("rank.calibration_batches", count, f"at most {available} (batches in the training images)")
    order = permutation(len(dataset), "calibration", seed)
    return Loader(dataset).load(order.split(batch_size)[:count])


def _loader(images: Images | Loader, num_workers: int | None) -> Loader:
    return images if isinstance(images, Loader) else Loader(images, num_workers)


def _leave_signals_to_parent(worker: int) -> None:
    """Ctrl-C reaches the whole process group; the parent ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
