"""Decoding image files of any format to square RGB tensors."""

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

# A quarter of a GiB as RGB: a small file can declare any size, and decoding it allocates that much.
MAX_PIXELS = 2**28 // 3
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow warns above it and refuses above twice it; `_open` refuses both
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Possible values of white by Pillow mode; 65535 for all others.
_FULL_SCALES = {"I": (65_535, 2**31 - 1), "F": (1, 255, 65_535)}


class FileImages(Dataset):
    """Map-style data set of image files, decoded on access; items are (uint8 `[3, S, S]`, label)."""

    def __init__(self, paths: list[Path], labels: list[int], spec: InputSpec):
        self.paths, self.labels, self.spec = paths, labels, spec

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return to_tensor(self.picture(index), self.spec), self.labels[index]

    def picture(self, index: int) -> Image.Image:
        """Return the image at the size of its file, in RGB."""
        return read_rgb(self.paths[index])

    def joined(self, other: "FileImages") -> "FileImages":
        """Return a data set of these images followed by those of `other`."""
        return FileImages([*self.paths, *other.paths], [*self.labels, *other.labels], self.spec)


def read_rgb(path: Path, reduced: bool = False) -> Image.Image:
    """Decode the first frame of an image file to RGB, rotated as its EXIF orientation says.

    Args:
        reduced: decode a JPEG at an eighth of its size, which still reads every byte but costs far less.

    Raises:
        UserError: the image has more than `MAX_PIXELS` pixels.
        OSError: the path is no regular file; a pipe would be waited for without end.
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
    """Open an image without decoding it.

    Raises:
        UserError: it has more than `MAX_PIXELS` pixels.
        OSError: the path is no regular file; a pipe would be waited for without end.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is a folder, a pipe or a device, not a file")
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
    """Convert an image of any mode to RGB: transparency onto white, grey of 16 bit, 32 bit or float scaled to 8 bit."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bit(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def to_tensor(image: Image.Image, spec: InputSpec) -> Tensor:
    """Return the centred square of an RGB image resized to uint8 `[3, S, S]`.

    Equivalent to resizing the shorter side to `S` and cropping the centre, but resizes only the pixels that are kept.
    """
    size, (width, height) = spec.image_size, image.size
    if (width, height) != (size, size):
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        image = image.resize((size, size), _FILTERS[spec.interpolation], (left, top, left + side, top + side))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _eight_bit(image: Image.Image) -> np.ndarray:
    """Scale to 8 bits by the smallest value of white in `_FULL_SCALES` that no pixel exceeds, else by the maximum."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    scales = _FULL_SCALES.get(image.mode, (65_535,))
    peak = values.max(initial=0)
    scale = next((s for s in scales if peak <= s), peak)
    return np.rint(values.clip(0) * (255 / scale)).astype(np.uint8)
