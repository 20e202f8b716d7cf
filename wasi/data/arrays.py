"""Data sets that fit in memory as they were published: raw bytes, resized when a batch asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from wasi.data.spec import InputSpec

if TYPE_CHECKING:
    from PIL import Image


class ArrayImages(Dataset):
    """Items (uint8 `[3, S, S]`, label); grey images become three equal channels.

    Args:
        images: uint8 `[m, C, H, W]` with `C` 1 or 3, held at this size.
        labels: int64 `[n]`.
        rows: int64 `[n]`, which of `images` these are; None = all of them in order.
    """

    def __init__(self, images: Tensor, labels: Tensor, spec: InputSpec, rows: Tensor | None = None):
        self.images, self.labels, self.spec, self.rows = images, labels, spec, rows

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Many at once (torch's loader asks this way): one resize for all."""
        images, labels = self.batch(torch.tensor(indices), self.images.device)
        return list(zip(images.unbind(), labels.tolist(), strict=True))

    def batch(self, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """(uint8 `[B, 3, S, S]` on `device`, int64 `[B]`); resized there."""
        images = self.images[self._rows(indices)].to(device)
        return _resized(images, self.spec).expand(-1, 3, -1, -1).contiguous(), self.labels[indices]

    def picture(self, index: int) -> Image.Image:
        """The image at its own size, in RGB."""
        from PIL import Image

        pixels = self.images[self._rows(torch.tensor([index]))][0]
        return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())

    def take(self, indices: Tensor) -> ArrayImages:
        """Only these; few of them are a copy, so that the others' memory can be freed."""
        rows, labels = self._rows(indices), self.labels[indices]
        if len(indices) <= len(self.images) // 2:
            return ArrayImages(self.images[rows], labels, self.spec)
        return ArrayImages(self.images, labels, self.spec, rows)

    def to(self, device: torch.device) -> ArrayImages:
        """The same with its images on `device`."""
        return ArrayImages(self.images.to(device), self.labels, self.spec, self.rows)

    def _rows(self, indices: Tensor) -> Tensor:
        return indices if self.rows is None else self.rows[indices]


def from_numpy(images, labels, spec: InputSpec) -> ArrayImages:
    """From arrays `[n, H, W]` or `[n, H, W, 3]` of uint8 and `[n]` of integers."""
    pixels = torch.from_numpy(images)
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    return ArrayImages(pixels, torch.as_tensor(labels, dtype=torch.int64), spec)


def _resized(images: Tensor, spec: InputSpec) -> Tensor:
    """uint8 `[B, C, S, S]`."""
    size = (spec.image_size, spec.image_size)
    if images.shape[-2:] == size:
        return images
    if images.device.type != "cpu":
        return resized_as_floats(images, spec)
    return F.interpolate(images, size, mode=spec.interpolation, antialias=True)


def resized_as_floats(images: Tensor, spec: InputSpec) -> Tensor:
    """As torch's own kernel for bytes, which only CPUs have, to one level: it rounds after the width, too."""
    resized = images.float()
    for size in ((images.shape[-2], spec.image_size), (spec.image_size, spec.image_size)):
        resized = F.interpolate(resized, size, mode=spec.interpolation, antialias=True).round_().clamp_(0, 255)
    return resized.byte()
