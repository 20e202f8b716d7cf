"""Fashion-MNIST from its IDX files, compressed or not, wherever they are."""

import logging
from collections.abc import Mapping
from pathlib import Path

from wasi.data import idx
from wasi.data.root import downloading, is_default_root, missing, root_of
from wasi.data.sizes import Available
from wasi.data.spec import InputSpec, Splits
from wasi.errors import UserError

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
# What `dataset.download=true` brings: known before it is there, so that a first run and its repetition are equal.
_PUBLISHED = {
    "train_images": (47_040_016, 0xB4F29F28),
    "train_labels": (60_008, 0x741A4657),
    "test_images": (7_840_016, 0x678FE0B1),
    "test_labels": (10_008, 0x80142C1F),
}


def available(cfg_dataset) -> Available | None:
    """From the files' headers; None where they are still to be downloaded.

    Raises:
        UserError: files are missing, or not whole.
    """
    folders = _folders(cfg_dataset)
    files = _find(folders)
    if files:
        train, test = (_count(cfg_dataset, files[f"{split}_images"]) for split in ("train", "test"))
        return Available(train, None, test, len(CLASSES))
    if not cfg_dataset["download"]:
        raise missing(cfg_dataset, f"{', '.join(FILES.values())} (or each with .gz)", folders)
    return None


def identity(cfg_dataset):
    files = _find(_folders(cfg_dataset))
    if files:
        return [idx.describe(path) for path in files.values()]
    if not cfg_dataset.get("download"):
        return "absent"
    return [{"file": FILES[role], "bytes": size, "crc32": crc} for role, (size, crc) in _PUBLISHED.items()]


def cut_parts(cfg_dataset) -> set[str]:
    return {"val"}


def load(cfg_dataset, spec: InputSpec) -> Splits:
    """Raises UserError for files that are not whole, do not fit each other, or cannot be downloaded."""
    root, folders = root_of(cfg_dataset), _folders(cfg_dataset)
    files = _find(folders) or _download(cfg_dataset, root, folders)
    folder = files["train_images"].parent
    if folder == DEBIAN_FOLDER and root != DEBIAN_FOLDER:
        log.info("fashion_mnist: nothing in %s, using Debian's files in %s", root, folder)
    train, test = (_split(cfg_dataset, files, split, spec) for split in ("train", "test"))
    return Splits(train, None, test, list(CLASSES))


def _folders(cfg_dataset) -> list[Path]:
    """Where to look, in order; Debian's package only stands in for the default root."""
    root = root_of(cfg_dataset)
    debian = [DEBIAN_FOLDER] if is_default_root(cfg_dataset) else []
    return [root, root / "FashionMNIST" / "raw", *debian]


def _find(folders: list[Path]) -> Mapping[str, Path] | None:
    """The four files of the first folder that has them all, by their role, or None."""
    for folder in folders:
        found = {role: path for role, name in FILES.items() if (path := _plain_or_gzipped(folder / name))}
        if len(found) == len(FILES):
            return found
    return None


def _plain_or_gzipped(path: Path) -> Path | None:
    return next((p for p in (path, path.with_name(f"{path.name}.gz")) if p.is_file()), None)


def _download(cfg_dataset, root: Path, folders: list[Path]):
    from torchvision.datasets import FashionMNIST

    with downloading(cfg_dataset, "the four files " + ", ".join(FILES.values())):
        FashionMNIST(str(root), download=True)
    return _find(folders)


def _split(cfg_dataset, files, split: str, spec: InputSpec):
    from wasi.data.arrays import from_numpy

    images = _array(cfg_dataset, files[f"{split}_images"], dimensions=3)
    labels = _array(cfg_dataset, files[f"{split}_labels"], dimensions=1)
    if len(images) != len(labels) or not len(labels) or labels.max() >= len(CLASSES):
        reason = f"{len(labels)} labels up to {max(labels, default=0)} for {len(images)} images of 10 classes"
        raise _bad(cfg_dataset, files[f"{split}_labels"], ValueError(reason))
    return from_numpy(images, labels, spec)


def _array(cfg_dataset, path: Path, dimensions: int):
    try:
        array = idx.read_array(path)
        if array.ndim != dimensions:
            raise ValueError(f"{array.ndim} dimensions where {dimensions} are needed")
    except idx.BROKEN as error:
        raise _bad(cfg_dataset, path, error) from error
    return array


def _count(cfg_dataset, path: Path) -> int:
    try:
        return idx.read_shape(path)[0]
    except idx.BROKEN as error:
        raise _bad(cfg_dataset, path, error) from error


def _bad(cfg_dataset, path: Path, error: Exception) -> UserError:
    return UserError("dataset.root", cfg_dataset["root"], f"a folder with whole IDX files; {path}: {error}")
