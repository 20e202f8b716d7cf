"""What a model wants its images to look like."""

from dataclasses import dataclass


@dataclass(frozen=True)
class InputSpec:
    """Square input of `image_size` pixels, normalised by `mean` and `std` per channel (of images in [0, 1])."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str  # "bilinear" or "bicubic"
