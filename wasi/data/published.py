"""CIFAR, Flowers-102 and Pets: torchvision's loaders on the published splits; CUB-200 beside them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torch.utils.data import ConcatDataset
from torchvision import datasets

from wasi.data import cub200
from wasi.data.arrays import ArrayImages, from_numpy
from wasi.data.catalogue import PUBLISHED, published_parent, root_of
from wasi.data.decode import to_tensor
from wasi.data.download import downloading
from wasi.data.spec import Data, InputSpec
from wasi.errors import UserError

_FLOWERS_IMAGES = 8_189
# What the loaders raise for files that are missing, cut short or not what they should be.
_BROKEN = (OSError, RuntimeError, EOFError, ValueError, LookupError)


def load(cfg_dataset, spec: InputSpec) -> Data:
    """Raises UserError where the archive is incomplete or cannot be downloaded."""
    name, download = cfg_dataset["name"], bool(cfg_dataset["download"])
    parent = published_parent(cfg_dataset) or root_of(cfg_dataset)
    folder = PUBLISHED[name].folder
    with downloading(cfg_dataset, f"{folder}/") if download else _reading(cfg_dataset, parent / folder):
        return _LOADERS[name](parent, spec, download)


@contextmanager
def _reading(cfg_dataset, folder: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        allowed = f"a folder with a whole {folder.name}/ ({reason}); dataset.download=true fetches it anew"
        raise UserError("dataset.root", cfg_dataset["root"], allowed) from error


def _cifar(kind: type, parent: Path, spec: InputSpec, download: bool) -> Data:
    """The train batches train, the test batch validates; images stay 32 px in memory."""

    def images(train: bool) -> tuple[ArrayImages, list[str]]:
        source = kind(str(parent), train=train, download=download)
        return from_numpy(source.data, source.targets, spec), list(source.classes)

    train, classes = images(train=True)
    return Data(train, images(train=False)[0], classes)


def _flowers102(parent: Path, spec: InputSpec, download: bool) -> Data:
    """Published train + val (10 + 10 images per class) train, the published test split validates."""
    train, val, test = (
        datasets.Flowers102(str(parent), split, transform=partial(to_tensor, spec=spec), download=download)
        for split in ("train", "val", "test")
    )
    _count_images(parent / "flowers-102" / "jpg", _FLOWERS_IMAGES)
    names = getattr(test, "classes", None) or range(1, 103)  # older releases know no names
    return Data(ConcatDataset([train, val]), test, [str(name) for name in names])


def _pets(parent: Path, spec: InputSpec, download: bool) -> Data:
    """Published trainval trains, published test validates; 37 breeds."""
    train, val = (
        datasets.OxfordIIITPet(str(parent), split, transform=partial(to_tensor, spec=spec), download=download)
        for split in ("trainval", "test")
    )
    _count_images(parent / "oxford-iiit-pet" / "images", len(train) + len(val))
    return Data(train, val, list(train.classes))


def _count_images(folder: Path, expected: int) -> None:
    """FileNotFoundError when a copy is incomplete: torchvision only looks whether the folder exists."""
    found = sum(1 for _ in folder.glob("*.jpg"))
    if found < expected:
        raise FileNotFoundError(f"{folder} has {found} of {expected} images")


_LOADERS = {
    "cifar10": partial(_cifar, datasets.CIFAR10),
    "cifar100": partial(_cifar, datasets.CIFAR100),
    "cub200": cub200.load,
    "flowers102": _flowers102,
    "pets": _pets,
}
