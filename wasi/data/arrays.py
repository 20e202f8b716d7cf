"""Data sets held in memory at their published size; images are resized when a batch is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from wasi.data.spec import InputSpec
from wasi.data.transfer import to_device

if TYPE_CHECKING:
    from PIL import Image


class ArrayImages(Dataset):
    """Map-style data set over one image tensor; items are (uint8 `[3, S, S]`, label).

    Grey images get three equal channels.

    Args:
        images: uint8 `[m, C, H, W]` with `C` 1 or 3, held at this size.
        labels: int64 `[n]`, the labels of the data set's `n` images.
        spec: gives the size `S` and the interpolation.
        rows: int64 `[n]`, the index into `images` of each of the `n` images; None: all of them in order.
    """

    def __init__(self, images: Tensor, labels: Tensor, spec: InputSpec, rows: Tensor | None = None):
        self.images, self.labels, self.spec, self.rows = images, labels, spec, rows

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Return the items at `indices`, resized in one call; `DataLoader` fetches a batch through this method."""
        images, labels = self.batch(torch.tensor(indices), self.images.device)
        return list(zip(images.unbind(), labels.tolist(), strict=True))

    def batch(self, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return images (uint8 `[B, 3, S, S]`) resized on `device`, and their labels (int64 `[B]`)."""
        images = to_device(self.images[to_device(self._rows(indices), self.images.device)], device)
        return _resized(images, self.spec).expand(-1, 3, -1, -1).contiguous(), self.labels[indices]

    def picture(self, index: int) -> Image.Image:
        """Return the image at its published size, in RGB."""
        from PIL import Image

        pixels = self.images[self._rows(torch.tensor([index]))][0]
        return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())

    def take(self, indices: Tensor) -> ArrayImages:
        """Return the images at `indices`; at most half of those held are copied, so that the others can be freed."""
        rows, labels = self._rows(indices), self.labels[indices]
        if len(indices) <= len(self.images) // 2:
            return ArrayImages(self.images[rows], labels, self.spec)
        return ArrayImages(self.images, labels, self.spec, rows)

    def to(self, device: torch.device) -> ArrayImages:
        """Return this data set with its image tensor on `device`; labels stay where they are."""
        return ArrayImages(self.images.to(device), self.labels, self.spec, self.rows)

    def _rows(self, indices: Tensor) -> Tensor:
        return indices if self.rows is None else self.rows[indices]


def from_numpy(images, labels, spec: InputSpec) -> ArrayImages:
    """Make a data set of NumPy images, uint8 `[n, H, W]` or `[n, H, W, 3]`, and integer labels `[n]`.

    Raises:
        ValueError: the images are of another type or shape, or there is not one label for each.
    """
    shaped = images.ndim > 2 and images.shape[3:] in ((), (3,))
    if images.dtype != "uint8" or not shaped or len(images) != len(labels):
        raise ValueError(f"images are {images.dtype} {[*images.shape]}, with {len(labels)} labels; they must be uint8, "
                         "[n, H, W] or [n, H, W, 3], with n labels")  # fmt: skip
    pixels = torch.from_numpy(images)
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    return ArrayImages(pixels, torch.as_tensor(labels, dtype=torch.int64), spec)


def _resized(images: Tensor, spec: InputSpec) -> Tensor:
    """Return `images` resized to uint8 `[B, C, S, S]`."""
    size = (spec.image_size, spec.image_size)
    if images.shape[-2:] == size:
        return images
    if images.device.type != "cpu":
        return resized_as_floats(images, spec)
    return F.interpolate(images, size, mode=spec.interpolation, antialias=True)


def resized_as_floats(images: Tensor, spec: InputSpec) -> Tensor:
    """Resize in float32 and return uint8, for devices other than CPUs, which alone have a kernel for uint8.

    Width and height are resized and rounded one after the other, as by that kernel; the results differ from its own by
    at most one grey level.
    """
    resized = images.float()
    for size in ((images.shape[-2], spec.image_size), (spec.image_size, spec.image_size)):
        resized = F.interpolate(resized, size, mode=spec.interpolation, antialias=True).round_().clamp_(0, 255)
    return resized.byte()
