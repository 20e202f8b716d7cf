"""What is known of every data set without reading it. No torch at import."""

from dataclasses import dataclass
from pathlib import Path

from wasi.errors import UserError

DEFAULT_ROOT = "data"


@dataclass(frozen=True)
class Published:
    """An archive with a published split: images in it, and the folder below `dataset.root` it unpacks to."""

    train: int
    val: int
    folder: str


PUBLISHED = {
    "cifar10": Published(50_000, 10_000, "cifar-10-batches-py"),
    "cifar100": Published(50_000, 10_000, "cifar-100-python"),
    "cub200": Published(5_994, 5_788, "CUB_200_2011"),
    "flowers102": Published(2_040, 6_149, "flowers-102"),
    "pets": Published(3_680, 3_669, "oxford-iiit-pet"),
}
DIGITS_TRAIN, DIGITS_VAL = 1_437, 360
NAMES = (*PUBLISHED, "fashion_mnist", "digits", "image_folder", "synthetic")


def root_of(cfg_dataset) -> Path:
    """`dataset.root` as a path; UserError where there is none."""
    root = cfg_dataset["root"]
    if root is None:
        raise UserError("dataset.root", "null", f"a folder for dataset={cfg_dataset['name']}")
    return Path(str(root)).expanduser()


def is_default_root(cfg_dataset) -> bool:
    return Path(str(cfg_dataset["root"])) == Path(DEFAULT_ROOT)


def check_sizes(cfg_dataset, train: int, val: int) -> None:
    """UserError when more images are asked for than the split has."""
    for option, available in (("train_size", train), ("val_size", val)):
        asked = cfg_dataset[option]
        if asked is not None and asked > available:
            split = "training" if option == "train_size" else "validation"
            limit = f"at most {available} (images in the {split} split of {cfg_dataset['name']})"
            raise UserError(f"dataset.{option}", asked, limit)


def published_parent(cfg_dataset) -> Path | None:
    """The folder that holds a published archive's folder: `dataset.root`, or its parent when given that folder."""
    root, folder = root_of(cfg_dataset), PUBLISHED[cfg_dataset["name"]].folder
    if _holds_something(root / folder):
        return root
    return root.parent if root.name == folder and _holds_something(root) else None


def _holds_something(folder: Path) -> bool:
    """A failed download leaves an empty folder behind."""
    return folder.is_dir() and any(folder.iterdir())
