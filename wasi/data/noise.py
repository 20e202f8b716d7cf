"""Images of 1/f noise around a pattern per class, made when they are asked for."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from wasi.data.draws import generator
from wasi.data.spec import InputSpec

CLASSES = 10
_PATTERN_SHARE = 0.2  # of the variance
_MEAN, _DEVIATION = 127.5, 45.0  # of pixel values; clipping beyond 2.8 deviations is rare


class SyntheticImages(Dataset):
    """Item `index` (uint8 `[3, S, S]`, label `index % 10`) is a function of (split, index, size) alone."""

    def __init__(self, count: int, split: str, spec: InputSpec):
        self.count, self.split, self.size = count, split, spec.image_size
        self.labels = torch.arange(count) % CLASSES
        self._amplitude = one_over_f(self.size)
        self._patterns = torch.stack([self._field("pattern", c) for c in range(CLASSES)])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        label = index % CLASSES
        noise = self._field(self.split, index)
        image = _PATTERN_SHARE**0.5 * self._patterns[label] + (1 - _PATTERN_SHARE) ** 0.5 * noise
        return (_MEAN + _DEVIATION * image).round_().clamp_(0, 255).to(torch.uint8), label

    def _field(self, *key: object) -> Tensor:
        """Random field `[3, S, S]` of mean 0 and variance 1 per channel; the channels resemble each other."""
        noise = torch.randn(4, self.size, self.size, generator=generator("synthetic", *key))
        noise = 0.8 * noise[:1] + 0.6 * noise[1:]
        field = torch.fft.irfft2(torch.fft.rfft2(noise) * self._amplitude, s=noise.shape[-2:])
        return field / field.square().mean((-2, -1), keepdim=True).sqrt().clamp_min(1e-12)


def one_over_f(size: int) -> Tensor:
    """Amplitudes `[S, S // 2 + 1]` of a real 2-D transform: 1 / radial frequency, 0 for the mean."""
    radius = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None])
    return torch.where(radius > 0, 1 / radius.clamp_min(1 / size), 0.0)
