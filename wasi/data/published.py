"""CIFAR-10 and -100, Flowers-102 and Oxford-IIIT Pet, read by torchvision, and CUB-200-2011, all in published splits.

torchvision has no reader for CUB-200-2011 (Wah et al. 2011), so it is read here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wasi.data import cifar10_png
from wasi.data.root import downloading, looking_below_root, missing, root_of
from wasi.data.sizes import Available
from wasi.data.spec import InputSpec, Splits
from wasi.deferred import import_light
from wasi.errors import UserError, first_line

CUB_URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
CUB_MD5 = "97eceeb196236b17998738112f37df78"
# What the readers raise for files that are missing, truncated or invalid.
_BROKEN = (OSError, RuntimeError, EOFError, ValueError, LookupError)


def available(cfg_dataset) -> Available:
    """Return the archive's published numbers of images; the files are not counted.

    Raises:
        UserError: the archive's folder is missing or empty, and `dataset.download` is false.
    """
    archive = _archive(cfg_dataset)
    if _parent(cfg_dataset, archive) is None and not cfg_dataset["download"]:
        raise missing(cfg_dataset, f"{archive.folder}/ for dataset={cfg_dataset['name']}", [root_of(cfg_dataset)])
    return archive.available


def identity(cfg_dataset) -> str:
    return "published"


def cut_parts(cfg_dataset) -> set[str]:
    return {"val"} if _archive(cfg_dataset).available.val is None else set()


def load(cfg_dataset, spec: InputSpec) -> Splits:
    """Read the published splits, after a download where that is allowed and needed.

    Raises:
        UserError: the archive is incomplete or cannot be downloaded.
    """
    archive = _archive(cfg_dataset)
    download = archive.downloads and bool(cfg_dataset["download"])
    parent = _parent(cfg_dataset, archive) or root_of(cfg_dataset)
    with downloading(cfg_dataset, f"{archive.folder}/") if download else _reading(cfg_dataset, archive):
        splits = archive.read(parent, spec, download)
    with _reading(cfg_dataset, archive):  # torchvision downloads nothing to a folder that is there, but incomplete
        return _whole(splits)


def _archive(cfg_dataset) -> Archive:
    """Return the data set's archive, or its other form where only that is found."""
    archive, other = ARCHIVES[cfg_dataset["name"]], OTHER_FORMS.get(cfg_dataset["name"])
    if other and _parent(cfg_dataset, archive) is None and _parent(cfg_dataset, other):
        return other
    return archive


def _parent(cfg_dataset, archive: Archive) -> Path | None:
    """Return the folder above the archive's: `dataset.root`, or its parent if the root is that folder; else None."""
    root, folder = root_of(cfg_dataset), archive.folder
    with looking_below_root(cfg_dataset):
        if _holds_something(root / folder):
            return root
        return root.parent if root.name == folder and _holds_something(root) else None


def _holds_something(folder: Path) -> bool:
    """Return whether a folder exists and is not empty; a failed download leaves an empty one behind."""
    return folder.is_dir() and any(folder.iterdir())


@contextmanager
def _reading(cfg_dataset, archive: Archive) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        anew = "; once that is deleted, dataset.download=true fetches it anew" if archive.downloads else ""
        allowed = f"a folder with a whole {archive.folder}/ ({first_line(error)}){anew}"
        raise UserError("dataset.root", cfg_dataset["root"], allowed) from error


def _cifar(kind: str, parent: Path, spec: InputSpec, download: bool) -> Splits:
    """Return CIFAR's training and test split; images are held in memory at 32 px."""
    from wasi.data.arrays import from_numpy

    datasets = import_light("torchvision.datasets")
    train, test = (getattr(datasets, kind)(str(parent), train=part, download=download) for part in (True, False))
    images = [from_numpy(source.data, source.targets, spec) for source in (train, test)]
    return Splits(images[0], None, images[1], list(train.classes))


def _cifar10_png(parent: Path, spec: InputSpec, download: bool) -> Splits:
    """Return what `_cifar` does, read from another form of the archive."""
    from wasi.data.arrays import from_numpy

    folder = parent / cifar10_png.FOLDER
    train, test = (from_numpy(*read(folder), spec) for read in (cifar10_png.read_train, cifar10_png.read_test))
    return Splits(train, None, test, list(cifar10_png.CLASSES))


def _flowers102(parent: Path, spec: InputSpec, download: bool) -> Splits:
    """Return the three published splits: per class 10 images for training, 10 for validation, the rest for testing."""
    from wasi.data.decode import FileImages

    datasets = import_light("torchvision.datasets")
    sources = [datasets.Flowers102(str(parent), split, download=download) for split in ("train", "val", "test")]
    names = getattr(sources[0], "classes", None) or range(1, 103)  # older releases of torchvision have no class names
    train, val, test = (FileImages(source._image_files, source._labels, spec) for source in sources)
    return Splits(train, val, test, [str(name) for name in names])


def _pets(parent: Path, spec: InputSpec, download: bool) -> Splits:
    """Return the published splits trainval, as the training images, and test; 37 breeds."""
    from wasi.data.decode import FileImages

    datasets = import_light("torchvision.datasets")
    splits = ("trainval", "test")
    train, test = (datasets.OxfordIIITPet(str(parent), split, download=download) for split in splits)
    images = [FileImages(source._images, source._labels, spec) for source in (train, test)]
    return Splits(images[0], None, images[1], list(train.classes))


def _whole(splits: Splits) -> Splits:
    """Return splits of image files. Raises FileNotFoundError if one is missing, which torchvision does not look for."""
    paths = [path for part in (splits.train, splits.val, splits.test) for path in getattr(part, "paths", ())]
    lost = [path for path in paths if not path.is_file()]
    if lost:
        raise FileNotFoundError(f"{len(paths) - len(lost)} of {len(paths)} images found, {lost[0]} is missing")
    return splits


def _cub200(parent: Path, spec: InputSpec, download: bool) -> Splits:
    """Return the split of train_test_split.txt (200 species); download only where files are missing."""
    folder = parent / "CUB_200_2011"
    try:
        return _read_cub200(folder, spec)
    except FileNotFoundError:
        if not download:
            raise
    utils = import_light("torchvision.datasets.utils")
    utils.download_and_extract_archive(CUB_URL, str(parent), filename=f"{folder.name}.tgz", md5=CUB_MD5)
    return _read_cub200(folder, spec)


def _read_cub200(folder: Path, spec: InputSpec) -> Splits:
    from wasi.data.decode import FileImages

    paths = {key: folder / "images" / name for key, name in _table(folder / "images.txt").items()}
    labels = {key: int(value) - 1 for key, value in _table(folder / "image_class_labels.txt").items()}
    training = {key: int(value) for key, value in _table(folder / "train_test_split.txt").items()}
    names = _table(folder / "classes.txt")
    classes = [names[str(number)].partition(".")[2] for number in range(1, len(names) + 1)]
    if not paths.keys() == labels.keys() == training.keys():
        raise ValueError("images.txt, image_class_labels.txt and train_test_split.txt list different images")
    if not all(0 <= label < len(classes) for label in labels.values()):
        raise ValueError("image_class_labels.txt names a class that classes.txt does not have")

    def split(flag: int) -> FileImages:
        keys = [key for key in paths if training[key] == flag]
        return FileImages([paths[key] for key in keys], [labels[key] for key in keys], spec)

    return _whole(Splits(split(1), None, split(0), classes))


def _table(path: Path) -> dict[str, str]:
    """Read a file of lines `key value`."""
    rows = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
    if not all(len(row) == 2 for row in rows):
        raise ValueError(f"{path} has lines that are not `number value`")
    return {key: value.strip() for key, value in rows}


@dataclass(frozen=True)
class Archive:
    """A published data set.

    folder: its folder below `dataset.root`; available: its published numbers of images; read: takes the folder above
    that one, the input spec and whether to download missing files, and returns the published splits; downloads: whether
    it can do so.
    """

    folder: str
    available: Available
    read: Callable[[Path, InputSpec, bool], Splits]
    downloads: bool = True


ARCHIVES = {
    "cifar10": Archive("cifar-10-batches-py", Available(50_000, None, 10_000, 10), partial(_cifar, "CIFAR10")),
    "cifar100": Archive("cifar-100-python", Available(50_000, None, 10_000, 100), partial(_cifar, "CIFAR100")),
    "cub200": Archive("CUB_200_2011", Available(5_994, None, 5_794, 200), _cub200),
    "flowers102": Archive("flowers-102", Available(1_020, 1_020, 6_149, 102), _flowers102),
    "pets": Archive("oxford-iiit-pet", Available(3_680, None, 3_669, 37), _pets),
}
# The same images and labels in other files, used where the archive is not found.
OTHER_FORMS = {
    "cifar10": Archive(cifar10_png.FOLDER, ARCHIVES["cifar10"].available, _cifar10_png, downloads=False),
}
