"""What a model wants its images to look like, and what it gets. No torch at import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.data import Dataset


@dataclass(frozen=True)
class InputSpec:
    """Square input of `image_size` pixels, normalised by `mean` and `std` per channel (of images in [0, 1])."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str  # "bilinear" or "bicubic"


@dataclass(frozen=True)
class Splits:
    """A data set as published; None where it has no such split.

    Items are those of `Data`; every split has `labels`, one integer per image, known without reading an image.
    """

    train: Dataset
    val: Dataset | None
    test: Dataset | None
    classes: list[str]


@dataclass(frozen=True)
class Data:
    """What a run uses. Every item is (uint8 `[3, S, S]`, label from 0 up); `classes[label]` names it.

    `train` and `val` have no image in common. `test` is read once, after training; None where there is none, and
    the very images of `val` under `dataset.val_source=test`.
    """

    train: Dataset
    val: Dataset
    test: Dataset | None
    classes: list[str]

    @property
    def num_classes(self) -> int:
        return len(self.classes)
