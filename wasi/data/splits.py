"""Choosing which images of a split a run uses."""

from torch.utils.data import Dataset, Subset

from wasi.data.arrays import ArrayImages
from wasi.data.draws import permutation


def choose(dataset: Dataset, size: int | None, seed: int, split: str) -> Dataset:
    """`size` images drawn without replacement, a function of `seed` and `split` alone; None means all.

    They keep the data set's order, and a smaller choice is part of a larger one.
    """
    if size is None or size == len(dataset):
        return dataset
    indices = permutation(len(dataset), "choose", split, seed)[:size].sort().values
    if isinstance(dataset, ArrayImages):
        return dataset.take(indices)
    return Subset(dataset, indices.tolist())
