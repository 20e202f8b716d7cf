"""Choosing a run's training, validation and test images from the published splits."""

from collections.abc import Sequence
from math import floor
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from wasi.data.arrays import ArrayImages
from wasi.data.draws import permutation
from wasi.data.sizes import held_out
from wasi.data.spec import Data, Images, Splits

if TYPE_CHECKING:
    from wasi.data.decode import FileImages


class Chosen(Subset):
    """`torch.utils.data.Subset` that also has `labels`."""

    def __init__(self, dataset: Images, indices: Tensor):
        super().__init__(cast(Dataset, dataset), indices.tolist())
        self.labels = torch.as_tensor(dataset.labels)[indices]


def divide(cfg_dataset, splits: Splits, seed: int) -> Data:
    """Choose the images that a run uses; each part keeps its split's order.

    Validation images are the published split or, without one, a stratified part of the training images. With
    `val_source=test` they are the test split, and all other images train. `seed` decides which images are drawn, except
    for the test part, which is the same for every seed: an image that options were chosen on under one seed is never a
    test image under another.
    """
    train, test = splits.train, splits.test
    if cfg_dataset["val_source"] == "test":
        assert test is not None  # by `check_sizes`
        if splits.val is not None:
            train = cast("FileImages", train).joined(cast("FileImages", splits.val))  # others have none
        val = test = part_of(test, cfg_dataset["val_size"], "val", seed)
    else:
        test = None if test is None else part_of(test, cfg_dataset["test_size"], "test")
        if splits.val is None:
            train, val = hold_out(train, held_out(cfg_dataset, len(train)), "val", seed)
        else:
            val = part_of(splits.val, cfg_dataset["val_size"], "val", seed)
    return Data(draw(train, cfg_dataset["train_size"], seed), val, test, splits.classes)


def hold_out(images: Images, size: int, *key: object) -> tuple[Images, Images]:
    """Return (the other images, `size` images drawn stratified by class); the others keep one image of every class."""
    held = stratified(images.labels, size, *key, keep=1)
    left = torch.ones(len(images), dtype=torch.bool)
    left[held] = False
    return take(images, left.nonzero().flatten()), take(images, held)


def part_of(images: Images, size: int | None, *key: object) -> Images:
    """Return `size` images drawn stratified by class; None means all."""
    return images if size is None else take(images, stratified(images.labels, size, *key))


def draw(images: Images, size: int | None, seed: int) -> Images:
    """Return `size` images drawn uniformly without replacement, a subset of any larger draw; None means all."""
    if size is None:
        return images
    return take(images, permutation(len(images), "choose", "train", seed)[:size].sort().values)


def stratified(labels: Sequence[int] | Tensor, size: int, *key: object, keep: int = 0) -> Tensor:
    """Draw sorted indices (int64 `[size]`) without replacement, each class in proportion to its number of images.

    The result is a function of the labels, `size`, `key` and `keep` alone.

    Args:
        key: seeds the draw.
        keep: number of images of every class that are left undrawn.
    """
    labels = torch.as_tensor(labels)
    shuffled = permutation(len(labels), "stratified", *key)
    members = [shuffled[labels[shuffled] == label] for label in labels[shuffled].unique().tolist()]
    order = permutation(len(members), "ties", *key).tolist()  # else ties favour low labels
    members = [members[index] for index in order]
    counts = allocate([len(one) for one in members], size, keep)
    return torch.cat([one[:count] for one, count in zip(members, counts, strict=True)]).sort().values


def allocate(counts: list[int], size: int, keep: int = 0) -> list[int]:
    """Return how many images to draw of each class, `size` in all: each class's share, rounded down or up if possible.

    Every class with more than `keep` images gives at least one if `size` suffices; none gives its last `keep` images.

    Raises:
        ValueError: `size` is more than all classes can give.

    >>> allocate([95, 5], 10), allocate([98, 2], 10, keep=1), allocate([5, 1, 1], 4, keep=1)
    ([9, 1], [9, 1], [4, 0, 0])
    """
    most = [max(count - keep, 0) for count in counts]
    if size > sum(most):
        raise ValueError(f"{size} of {sum(most)} images that can be given")
    shares = [size * count / sum(counts) for count in counts]
    least = [min(1, room) for room in most] if size >= sum(map(bool, most)) else [0] * len(counts)
    given = [min(max(floor(share), low), high) for share, low, high in zip(shares, least, most, strict=True)]
    while missing := size - sum(given):
        one = 1 if missing > 0 else -1
        movable = [c for c in range(len(counts)) if least[c] <= given[c] + one <= most[c]]
        given[max(movable, key=lambda c: one * (shares[c] - given[c]))] += one
    return given


def take(images: Images, indices: Tensor) -> Images:
    """Return the images at `indices`, which are sorted and distinct: with all indices, `images` itself."""
    if len(indices) == len(images):
        return images
    return images.take(indices) if isinstance(images, ArrayImages) else Chosen(images, indices)
