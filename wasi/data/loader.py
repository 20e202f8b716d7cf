"""Batches in an order that is a function of (seed, epoch) alone; global random generators are not used."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wasi.cores import JOB_SLOTS, usable_cores
from wasi.data.arrays import ArrayImages
from wasi.data.augment import AugmentedImages
from wasi.data.draws import generator, permutation
from wasi.data.spec import Images
from wasi.data.transfer import to_device

Batch = tuple[Tensor, Tensor]  # uint8 [B, 3, S, S]; int64 [B] or, with mixup or CutMix, float32 [B, C]
Part = Callable[[Tensor], Tensor]  # takes positions in a batch, int64 [B]; returns a consecutive range, maybe empty
SMALL = 2**30  # bytes; a larger data set is not kept on a GPU
_MOST_WORKERS = 16
_CPU = torch.device("cpu")


def _all(positions: Tensor) -> Tensor:
    return positions


class Loader:
    """Batches of one data set, with the images on `device`.

    Images held in memory (`ArrayImages`) are resized on `device`; on a GPU, a small set is kept there at its published
    size. Image files and augmented images come through worker processes, and for a GPU through pinned memory.

    Args:
        num_workers: worker processes that decode and augment. None: 0 for images held in memory; otherwise 2, or for a
            GPU one per core of this process's share (`_share_of_cores`), at most 16. `workers_of` gives the number for
            a run.
        resident: whether a small set may be kept on a GPU; otherwise each batch is copied there.
        persistent: whether workers live as long as this object, rather than for one pass over the data.
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
            num_workers = min(_MOST_WORKERS, _share_of_cores()) if gpu else 2
        self._arrays: ArrayImages | None = None  # None where a DataLoader is used
        if isinstance(dataset, ArrayImages) and (gpu or num_workers == 0):
            self._arrays = dataset.to(device) if gpu and resident and dataset.images.nbytes <= SMALL else dataset
        self.dataset: Images = dataset if self._arrays is None else self._arrays
        self._items: list[list[int]] = []  # the indices of every batch of the current pass
        self._loader = None if self._arrays is not None else DataLoader(
            cast(Dataset, dataset),
            batch_sampler=self._items,
            num_workers=num_workers,
            persistent_workers=persistent and num_workers > 0,
            pin_memory=gpu,
            generator=generator("workers"),  # else DataLoader draws from the global generator
            worker_init_fn=_leave_signals_to_parent if num_workers else None,
        )  # fmt: skip

    def load(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """Yield the batch of items at each of `batches` (int64 indices); passes must not overlap."""
        if self._arrays is not None:
            for indices in batches:
                yield self._arrays.batch(indices, self._device)
            return
        assert self._loader is not None
        self._items[:] = [indices.tolist() for indices in batches]
        for images, labels in self._loader:
            yield to_device(images, self._device), labels


def _share_of_cores() -> int:
    """Return the cores for each of the processes on this machine that `torchrun` or a sweep has started; at least 1.

    A sweep has one process for each of its slots, which `wasi.runs.job_slots` lists in the variable `JOB_SLOTS`.
    """
    slots = os.environ.get(JOB_SLOTS, "").split(",")
    return max(1, usable_cores() // max(len(slots), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def workers_of(cfg, device: torch.device) -> int | None:
    """Return `dataset.num_workers`, but 0 where that is null, the device a CPU and `train.memory=lean`.

    A forked worker shares the weights' pages with this process until training overwrites them here; from then on the
    worker's old copy takes memory of its own.
    """
    scarce = cfg.train.get("memory") == "lean" and device.type == "cpu"
    return 0 if scarce and cfg.dataset.num_workers is None else cfg.dataset.num_workers


def num_batches(dataset: Images, batch_size: int) -> int:
    """Return the number of batches per epoch, a last smaller one included."""
    return -(-len(dataset) // batch_size)


def train_batches(
    loader: Loader,
    batch_size: int,
    seed: int,
    epoch: int,
    start: int = 0,
    hflip: float = 0.0,
    mix: Callable[..., Batch] | None = None,
    part: Part = _all,
) -> Iterator[Batch]:
    """Yield the shuffled batches of one epoch from batch `start` on; earlier ones are not loaded.

    Args:
        hflip: probability that an image is mirrored horizontally; drawn per image from (seed, epoch, batch).
        mix: mixup or CutMix for a batch, as `batch_mix` returns it.
        part: selects the positions of every batch to load, for example those of one process; images and labels are
            bit for bit those that the whole batch has at these positions.
    """
    order = permutation(len(loader.dataset), "order", seed, epoch)
    if isinstance(loader.dataset, AugmentedImages):
        order = order + epoch * len(order)
    whole = order.split(batch_size)[start:]
    selected = [_positions_to_load(len(items), part, with_neighbour=mix is not None) for items in whole]
    loaded = loader.load([items[positions] for items, (positions, _) in zip(whole, selected, strict=True)])
    parts = zip(loaded, whole, selected, strict=True)
    for number, ((batch, labels), items, (positions, others)) in enumerate(parts, start):
        if hflip > 0:
            mirrored = torch.rand(len(items), generator=generator("hflip", seed, epoch, number)) < hflip
            rows = to_device(mirrored[positions].nonzero().flatten(), batch.device)
            batch[rows] = batch[rows].flip(-1)
        if mix is not None:
            batch, labels = mix(batch, labels, seed, epoch, number)
        yield batch[others:], labels[others:]


def _positions_to_load(count: int, part: Part, with_neighbour: bool = False) -> tuple[Tensor, int]:
    """Return the positions to load of a batch of `count` images, and how many of the first of them to drop afterwards.

    One extra image is loaded where `part` selects none, as a DataLoader makes no empty batches, and for mixup and
    CutMix, which combine each image with the one before it (the first with the last).
    """
    own = part(torch.arange(count))
    if len(own) == count or (len(own) and not with_neighbour):
        return own, 0
    first = int(own[0]) if len(own) else 0
    return torch.cat([torch.tensor([(first - 1) % count]), own]), 1


def first_batch(dataset: Images, cfg) -> Batch:
    """Return the first training batch of the configuration `cfg`, mirrored as in training but not augmented."""
    data = cfg.dataset
    return next(train_batches(Loader(dataset), data.batch_size, cfg.seed, 0, hflip=data.hflip))


def eval_batches(loader: Loader, batch_size: int, part: Part = _all) -> Iterator[Batch]:
    """Yield all images once in the data set's order; `part` as for `train_batches`."""
    whole = torch.arange(len(loader.dataset)).split(batch_size)
    selected = [_positions_to_load(len(items), part) for items in whole]
    loaded = loader.load([items[positions] for items, (positions, _) in zip(whole, selected, strict=True)])
    for (batch, labels), (_, others) in zip(loaded, selected, strict=True):
        yield batch[others:], labels[others:]


def calibration_batches(dataset: Images, batch_size: int, count: int, seed: int) -> Iterator[Batch]:
    """Return `count` batches of distinct images without augmentation, or all that `dataset` makes, if fewer.

    They are a function of `seed` alone.
    """
    order = permutation(len(dataset), "calibration", seed)
    return Loader(dataset).load(order.split(batch_size)[:count])


def _leave_signals_to_parent(worker: int) -> None:
    """Ignore in a worker what a terminal sends to the whole process group: its parent ends it after the step.

    That is SIGINT for Ctrl-C, and SIGHUP when it is closed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
