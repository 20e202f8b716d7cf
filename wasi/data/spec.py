"""What a model wants its images to look like, and what it gets. No torch at import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class InputSpec:
    """Square input of `image_size` pixels, normalised by `mean` and `std` per channel (of images in [0, 1])."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str  # "bilinear" or "bicubic"


class Images(Protocol):
    """Images of one split, as a map-style `torch.utils.data.Dataset`.

    Every item is (uint8 `[3, S, S]`, label from 0 up); `labels`, one per image, are known without reading an image.
    """

    @property
    def labels(self) -> Sequence[int] | Tensor: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]: ...


@dataclass(frozen=True)
class Splits:
    """A data set as published; None where it has no such split."""

    train: Images
    val: Images | None
    test: Images | None
    classes: list[str]


@dataclass(frozen=True)
class Data:
    """What a run uses; `classes[label]` names a label.

    `train` and `val` have no image in common. `test` is read once, after training; None where there is none, and
    the very images of `val` under `dataset.val_source=test`.
    """

    train: Images
    val: Images
    test: Images | None
    classes: list[str]

    @property
    def num_classes(self) -> int:
        return len(self.classes)
