"""Normalisation of uint8 images to the model's float32 input."""

import torch
from torch import Tensor

from wasi.data.spec import InputSpec


class Normalize:
    """Map uint8 images `[B, 3, S, S]` to float32 `(x / 255 - mean) / std` per channel, on the images' device."""

    def __init__(self, spec: InputSpec):
        mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (spec.mean, spec.std))
        self._scale, self._shift = (1 / (255 * std)).float(), (-mean / std).float()

    def __call__(self, images: Tensor) -> Tensor:
        if self._scale.device != images.device:  # of the first batch: each copy would make the host wait for a GPU
            self._scale, self._shift = self._scale.to(images.device), self._shift.to(images.device)
        return images.to(torch.float32).mul_(self._scale).add_(self._shift)
