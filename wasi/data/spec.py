"""Types of the data pipeline: the model's input format, data sets and their splits. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class InputSpec:
    """A model's input: square images of `image_size` pixels; `mean` and `std` per channel are of values in [0, 1]."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str  # "bilinear" or "bicubic"


class Images(Protocol):
    """A map-style data set whose items are (uint8 `[3, S, S]`, label from 0 up).

    `labels` has one label per image and is known without reading an image.
    """

    @property
    def labels(self) -> Sequence[int] | Tensor: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]: ...


@dataclass(frozen=True)
class Splits:
    """The published splits of a data set; `val` or `test` is None where it has no such split."""

    train: Images
    val: Images | None
    test: Images | None
    classes: list[str]


@dataclass(frozen=True)
class Data:
    """The images that a run uses; `classes[label]` is the name of a class.

    `train` and `val` have no image in common. `test` is read once, after training; it is None where there is no test
    split, and the same object as `val` with `dataset.val_source=test`.
    """

    train: Images
    val: Images
    test: Images | None
    classes: list[str]

    @property
    def num_classes(self) -> int:
        return len(self.classes)
