"""CIFAR, Flowers-102 and Pets: torchvision's readers of the published splits; CUB-200 beside them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wasi.data.root import downloading, missing, root_of
from wasi.data.sizes import Available
from wasi.data.spec import InputSpec, Splits
from wasi.errors import UserError


@dataclass(frozen=True)
class Archive:
    """The folder below `dataset.root` that an archive unpacks to, and the images in it."""

    folder: str
    available: Available


ARCHIVES = {
    "cifar10": Archive("cifar-10-batches-py", Available(50_000, None, 10_000, 10)),
    "cifar100": Archive("cifar-100-python", Available(50_000, None, 10_000, 100)),
    "cub200": Archive("CUB_200_2011", Available(5_994, None, 5_794, 200)),
    "flowers102": Archive("flowers-102", Available(1_020, 1_020, 6_149, 102)),
    "pets": Archive("oxford-iiit-pet", Available(3_680, None, 3_669, 37)),
}
_FLOWERS_IMAGES = 8_189
# What the readers raise for files that are missing, cut short or not what they should be.
_BROKEN = (OSError, RuntimeError, EOFError, ValueError, LookupError)


def available(cfg_dataset) -> Available:
    """Raises UserError where the archive's folder is not there and is not to be downloaded."""
    name = cfg_dataset["name"]
    if _parent(cfg_dataset) is None and not cfg_dataset["download"]:
        raise missing(cfg_dataset, f"{ARCHIVES[name].folder}/ for dataset={name}", [root_of(cfg_dataset)])
    return ARCHIVES[name].available


def identity(cfg_dataset) -> str:
    return "published"


def cut_parts(cfg_dataset) -> set[str]:
    return {"val"} if ARCHIVES[cfg_dataset["name"]].available.val is None else set()


def load(cfg_dataset, spec: InputSpec) -> Splits:
    """Raises UserError where the archive is incomplete or cannot be downloaded."""
    name, download = cfg_dataset["name"], bool(cfg_dataset["download"])
    parent = _parent(cfg_dataset) or root_of(cfg_dataset)
    folder = ARCHIVES[name].folder
    with downloading(cfg_dataset, f"{folder}/") if download else _reading(cfg_dataset, parent / folder):
        return _read(name, parent, spec, download)


def _parent(cfg_dataset) -> Path | None:
    """The folder that holds the archive's folder: `dataset.root`, or its parent when given that folder."""
    root, folder = root_of(cfg_dataset), ARCHIVES[cfg_dataset["name"]].folder
    if _holds_something(root / folder):
        return root
    return root.parent if root.name == folder and _holds_something(root) else None


def _holds_something(folder: Path) -> bool:
    """A failed download leaves an empty folder behind."""
    return folder.is_dir() and any(folder.iterdir())


@contextmanager
def _reading(cfg_dataset, folder: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        allowed = f"a folder with a whole {folder.name}/ ({reason}); dataset.download=true fetches it anew"
        raise UserError("dataset.root", cfg_dataset["root"], allowed) from error


def _read(name: str, parent: Path, spec: InputSpec, download: bool) -> Splits:
    from torchvision import datasets

    if name == "cub200":
        from wasi.data import cub200

        return cub200.load(parent, spec, download)
    if name == "flowers102":
        return _flowers102(parent, spec, download)
    if name == "pets":
        return _pets(parent, spec, download)
    return _cifar({"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name], parent, spec, download)


def _cifar(kind: type, parent: Path, spec: InputSpec, download: bool) -> Splits:
    """The train batches train, the test batch tests; images stay 32 px in memory."""
    from wasi.data.arrays import from_numpy

    train, test = (kind(str(parent), train=train, download=download) for train in (True, False))
    images = [from_numpy(source.data, source.targets, spec) for source in (train, test)]
    return Splits(images[0], None, images[1], list(train.classes))


def _flowers102(parent: Path, spec: InputSpec, download: bool) -> Splits:
    """The three published splits: 10 + 10 images per class, and the rest tests."""
    from torchvision.datasets import Flowers102

    from wasi.data.files import FileImages

    sources = [Flowers102(str(parent), split, download=download) for split in ("train", "val", "test")]
    _count_images(parent / "flowers-102" / "jpg", _FLOWERS_IMAGES)
    names = getattr(sources[0], "classes", None) or range(1, 103)  # older releases know no names
    images = [FileImages(source._image_files, source._labels, spec) for source in sources]
    return Splits(*images, [str(name) for name in names])


def _pets(parent: Path, spec: InputSpec, download: bool) -> Splits:
    """Published trainval trains, published test tests; 37 breeds."""
    from torchvision.datasets import OxfordIIITPet

    from wasi.data.files import FileImages

    train, test = (OxfordIIITPet(str(parent), split, download=download) for split in ("trainval", "test"))
    _count_images(parent / "oxford-iiit-pet" / "images", len(train) + len(test))
    images = [FileImages(source._images, source._labels, spec) for source in (train, test)]
    return Splits(images[0], None, images[1], list(train.classes))


def _count_images(folder: Path, expected: int) -> None:
    """FileNotFoundError when a copy is incomplete: torchvision only looks whether the folder exists."""
    found = sum(1 for _ in folder.glob("*.jpg"))
    if found < expected:
        raise FileNotFoundError(f"{folder} has {found} of {expected} images")
