"""Synthetic images for timing and tests: a fixed pattern per class, which can be learnt, plus 1/f noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wasi.data.sizes import Available
from wasi.data.spec import InputSpec, Splits

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = 10
SIZES = {"train": 512, "val": 128, "test": 128}
_PATTERN_SHARE = 0.2  # of the variance
_MEAN, _DEVIATION = 127.5, 45.0  # of pixel values; clipping beyond 2.8 deviations is rare


def available(cfg_dataset) -> Available | None:
    """Return None, as any number of images can be made."""
    return None


def identity(cfg_dataset) -> str:
    return "built in"


def cut_parts(cfg_dataset) -> set[str]:
    return set()


def load(cfg_dataset, spec: InputSpec) -> Splits:
    """Return splits of the sizes asked for (null: `SIZES`); a smaller split is the beginning of a larger one.

    With `val_source=test` there is no validation split, and `val_size` is the size of the test split.
    """
    sizes = {split: cfg_dataset[f"{split}_size"] or size for split, size in SIZES.items()}
    if cfg_dataset["val_source"] == "test":
        sizes = {"train": sizes["train"], "test": sizes["val"]}
    images = {split: SyntheticImages(size, split, spec) for split, size in sizes.items()}
    return Splits(images["train"], images.get("val"), images["test"], [f"pattern {c}" for c in range(CLASSES)])


class SyntheticImages:
    """Map-style data; item `index` is (uint8 `[3, S, S]`, label `index % 10`), a function of split, index, size."""

    def __init__(self, count: int, split: str, spec: InputSpec):
        import torch

        self.count, self.split, self.size = count, split, spec.image_size
        self.labels = torch.arange(count) % CLASSES
        radius = torch.hypot(torch.fft.fftfreq(self.size)[:, None], torch.fft.rfftfreq(self.size)[None])
        self._amplitude = torch.where(radius > 0, 1 / radius.clamp_min(1 / self.size), 0.0)
        self._patterns = torch.stack([self._field("pattern", c) for c in range(CLASSES)])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        label = index % CLASSES
        noise = self._field(self.split, index)
        image = _PATTERN_SHARE**0.5 * self._patterns[label] + (1 - _PATTERN_SHARE) ** 0.5 * noise
        return (_MEAN + _DEVIATION * image).round_().clamp_(0, 255).byte(), label

    def _field(self, *key: object) -> Tensor:
        """Return a random field `[3, S, S]` of mean 0 and variance 1 per channel, with correlated channels."""
        import torch

        from wasi.data.draws import generator

        noise = torch.randn(4, self.size, self.size, generator=generator("synthetic", *key))
        noise = 0.8 * noise[:1] + 0.6 * noise[1:]
        field = torch.fft.irfft2(torch.fft.rfft2(noise) * self._amplitude, s=noise.shape[-2:])
        return field / field.square().mean((-2, -1), keepdim=True).sqrt().clamp_min(1e-12)
