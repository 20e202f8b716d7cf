"""Image files of any kind, to square RGB bytes when a batch asks for them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from wasi.data.spec import InputSpec
from wasi.errors import UserError

# A quarter of a gigabyte as RGB. A small file can claim any size, and decoding it takes that memory.
MAX_PIXELS = 2**28 // 3
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow refuses twice as much itself, and warns of what `_open` refuses
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_FULL_SCALES = {"I": (65_535, 2**31 - 1), "F": (1, 255, 65_535)}


class FileImages(Dataset):
    """Items (uint8 `[3, S, S]`, label), one file each."""

    def __init__(self, paths: list[Path], labels: list[int], spec: InputSpec):
        self.paths, self.labels, self.spec = paths, labels, spec

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return to_tensor(self.picture(index), self.spec), self.labels[index]

    def picture(self, index: int) -> Image.Image:
        """The image at its own size, in RGB."""
        return read_rgb(self.paths[index])

    def joined(self, other: "FileImages") -> "FileImages":
        """These images, then those of `other`."""
        return FileImages([*self.paths, *other.paths], [*self.labels, *other.labels], self.spec)


def read_rgb(path: Path, reduced: bool = False) -> Image.Image:
    """The first frame of any image file in RGB, turned as its EXIF orientation says.

    `reduced` lets a JPEG decode at an eighth of its size: every byte is still read, at a fraction of the cost.

    Raises:
        UserError: the image has more than `MAX_PIXELS` pixels.
        Exception: whatever the decoder raises for a file that is damaged, cut short or of an unknown kind.
    """
    with _open(path) as image:
        if reduced:
            image.draft(image.mode, (1, 1))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """`Image.open`, which reads the size alone; UserError for one above `MAX_PIXELS`."""
    allowed = f"an image of at most {MAX_PIXELS} pixels"
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError("image", path, f"{allowed}; this one has {width} x {height}")
            yield image
    except Image.DecompressionBombError as error:
        raise UserError("image", path, f"{allowed} ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Transparency goes on white; deep greys (16 bit, 32 bit, float) are scaled to 8 bit."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bit(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def to_tensor(image: Image.Image, spec: InputSpec) -> Tensor:
    """uint8 `[3, S, S]`: the centred square of an RGB image, resized.

    The same as resizing the shorter side to `S` and cropping the centre, in one pass over what is kept.
    """
    size, (width, height) = spec.image_size, image.size
    if (width, height) != (size, size):
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        image = image.resize((size, size), _FILTERS[spec.interpolation], (left, top, left + side, top + side))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _eight_bit(image: Image.Image) -> np.ndarray:
    """Divided by the smallest usual full scale that holds the values; integers count as 16 bit at least."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    scales = _FULL_SCALES.get(image.mode, (65_535,))
    peak = values.max(initial=0)
    scale = next((s for s in scales if peak <= s), peak)
    return np.rint(values.clip(0) * (255 / scale)).astype(np.uint8)
