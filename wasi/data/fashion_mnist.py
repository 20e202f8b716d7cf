"""Fashion-MNIST, read from its four IDX files, gzipped or not."""

from __future__ import annotations

import gzip
import logging
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from wasi.data.root import DEFAULT_ROOT, downloading, looking_below_root, missing, root_of
from wasi.data.sizes import Available
from wasi.data.spec import InputSpec, Splits
from wasi.deferred import import_light
from wasi.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from wasi.data.arrays import ArrayImages

log = logging.getLogger(__name__)

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
CLASSES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip
# (bytes, CRC-32) of the published files, so that a run that downloads them and a later one have the same identity.
_PUBLISHED = {
    "train_images": (47_040_016, 0xB4F29F28),
    "train_labels": (60_008, 0x741A4657),
    "test_images": (7_840_016, 0x678FE0B1),
    "test_labels": (10_008, 0x80142C1F),
}
_UNSIGNED_BYTE = 0x08
_BLOCK = 2**20


def available(cfg_dataset) -> Available | None:
    """Return the numbers of images in the files' headers, or None where the files are still to be downloaded.

    Raises:
        UserError: files are missing without `dataset.download=true`, or are truncated or not IDX files.
    """
    if files := _find(cfg_dataset):
        counts = []
        for path in (files["train_images"], files["test_images"]):
            with _whole(cfg_dataset, path):
                counts.append(_shape(path)[0])
        return Available(counts[0], None, counts[1], len(CLASSES))
    if not cfg_dataset["download"]:
        raise missing(cfg_dataset, f"{', '.join(FILES.values())} (or each with .gz)", _folders(cfg_dataset))
    return None


def identity(cfg_dataset):
    """Return name, size and CRC-32 of each file's uncompressed content, or "absent"."""
    if files := _find(cfg_dataset):
        found = {role: _content(path) for role, path in files.items()}
    elif cfg_dataset.get("download"):
        found = _PUBLISHED
    else:
        return "absent"
    return [{"file": FILES[role], "bytes": size, "crc32": crc} for role, (size, crc) in found.items()]


def cut_parts(cfg_dataset) -> set[str]:
    return {"val"}


def load(cfg_dataset, spec: InputSpec) -> Splits:
    """Read the training and test split, after a download where files are missing.

    Raises:
        UserError: the files are truncated, do not match each other, or cannot be downloaded.
    """
    root = root_of(cfg_dataset)
    files = _find(cfg_dataset)
    if not files:
        with downloading(cfg_dataset, "the four files " + ", ".join(FILES.values())):
            import_light("torchvision.datasets").FashionMNIST(str(root), download=True)
        if (files := _find(cfg_dataset)) is None:
            raise missing(cfg_dataset, ", ".join(FILES.values()), _folders(cfg_dataset))
    folder = files["train_images"].parent
    if folder == DEBIAN_FOLDER and root != DEBIAN_FOLDER:
        log.info("fashion_mnist: nothing in %s, using Debian's files in %s", root, folder)
    train, test = (_split(cfg_dataset, files, split, spec) for split in ("train", "test"))
    return Splits(train, None, test, list(CLASSES))


def _folders(cfg_dataset) -> list[Path]:
    """Return the folders to search, in order; that of Debian's package only with the default `dataset.root`."""
    root = root_of(cfg_dataset)
    debian = [DEBIAN_FOLDER] if root == Path(DEFAULT_ROOT) else []
    return [root, root / "FashionMNIST" / "raw", *debian]


def _find(cfg_dataset) -> Mapping[str, Path] | None:
    """Return role -> path for the first of the folders to search that has all four files, or None."""
    for folder in _folders(cfg_dataset):
        candidates = {role: (folder / name, folder / f"{name}.gz") for role, name in FILES.items()}
        with looking_below_root(cfg_dataset):
            files = {role: next(filter(Path.is_file, pair), None) for role, pair in candidates.items()}
        found = {role: path for role, path in files.items() if path}
        if len(found) == len(FILES):
            return found
    return None


def _split(cfg_dataset, files: Mapping[str, Path], split: str, spec: InputSpec) -> ArrayImages:
    from wasi.data.arrays import from_numpy

    with _whole(cfg_dataset, path := files[f"{split}_images"]):
        images = read_array(path, dimensions=3)
    with _whole(cfg_dataset, path := files[f"{split}_labels"]):
        labels = read_array(path, dimensions=1)
        if len(images) != len(labels) or not len(labels) or labels.max() >= len(CLASSES):
            most = max(labels, default=0)
            raise ValueError(f"{len(labels)} labels up to {most} for {len(images)} images of 10 classes")
    return from_numpy(images, labels, spec)


@contextmanager
def _whole(cfg_dataset, path: Path) -> Iterator[None]:
    """Turn errors from reading a truncated or invalid IDX file into a UserError that names it."""
    try:
        yield
    except (OSError, EOFError, ValueError, zlib.error) as error:
        allowed = f"a folder with whole IDX files; {path}: {error}"
        raise UserError("dataset.root", cfg_dataset["root"], allowed) from error


def read_array(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file into a uint8 array of its shape, in blocks, so that no second copy is held.

    Raises:
        OSError, EOFError, ValueError, zlib.error: the file is truncated, of another type or has not `dimensions` axes.
    """
    import numpy as np

    shape = _shape(path)
    array = np.empty(shape, np.uint8)
    rest = memoryview(array.reshape(-1))  # type: ignore[arg-type]  # an array is a buffer
    with _open(path) as stream:
        _exactly(stream, 4 + 4 * len(shape))
        while count := stream.readinto(rest[:_BLOCK]):
            rest = rest[count:]
        if len(rest):
            raise EOFError("the file ends early")
        if stream.read(1):  # also makes gzip compare its checksum
            raise ValueError("bytes after the end of the array")
    if len(shape) != dimensions:
        raise ValueError(f"{len(shape)} dimensions where {dimensions} are needed")
    return array


def _shape(path: Path) -> tuple[int, ...]:
    """Return the shape in an IDX file's header; raises as `read_array` does, also where the length does not match."""
    with _open(path) as stream:
        zeros, kind, dimensions = struct.unpack(">HBB", _exactly(stream, 4))
        if zeros or kind != _UNSIGNED_BYTE or not dimensions:
            raise ValueError("not an IDX file of unsigned bytes")
        shape = struct.unpack(f">{dimensions}I", _exactly(stream, 4 * dimensions))
    size, expected = _content(path)[0], 4 + 4 * dimensions + prod(shape)
    if size != expected % 2**32:
        raise ValueError(f"{size} bytes where its header asks for {expected}")
    return shape


def _content(path: Path) -> tuple[int, int]:
    """Return size in bytes and CRC-32 of a file's uncompressed content."""
    status = path.stat()
    return _content_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _content_of(path: Path, size: int, mtime_ns: int) -> tuple[int, int]:
    """Compute `_content`, cached by size and modification time; a gzip file's last 8 bytes hold both numbers."""
    with open(path, "rb") as stream:
        if path.suffix == ".gz":
            stream.seek(-min(8, size), 2)
            crc, length = struct.unpack("<II", _exactly(stream, 8))
            return length, crc
        crc = 0
        while block := stream.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return size, crc


def _open(path: Path):
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")


def _exactly(stream, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError("the file ends early")
    return data
