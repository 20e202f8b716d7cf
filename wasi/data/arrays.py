"""Data sets that fit in memory as they were published: raw bytes, resized when a batch asks for them."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from wasi.data.spec import InputSpec


class ArrayImages(Dataset):
    """Items (uint8 `[3, S, S]`, label); grey images become three equal channels.

    Args:
        images: uint8 `[n, C, H, W]` with `C` 1 or 3, held at this size.
        labels: int64 `[n]`.
    """

    def __init__(self, images: Tensor, labels: Tensor, spec: InputSpec):
        self.images, self.labels, self.spec = images, labels, spec

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Many at once (torch's loader asks this way): one resize for all."""
        size = self.spec.image_size
        images = self.images[indices]
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode=self.spec.interpolation, antialias=True)
        images = images.expand(-1, 3, -1, -1)
        return list(zip(images.unbind(), self.labels[indices].tolist(), strict=True))

    def take(self, indices: Tensor) -> "ArrayImages":
        """A copy of only these rows, so that the others' memory can be freed."""
        return ArrayImages(self.images[indices], self.labels[indices], self.spec)


def from_numpy(images, labels, spec: InputSpec) -> ArrayImages:
    """From arrays `[n, H, W]` or `[n, H, W, 3]` of uint8 and `[n]` of integers."""
    pixels = torch.from_numpy(images)
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    return ArrayImages(pixels, torch.as_tensor(labels, dtype=torch.int64), spec)
