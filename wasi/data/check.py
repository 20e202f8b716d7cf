"""What can be refused about the data before anything heavy is imported. No torch at import."""

import zlib
from pathlib import Path

from wasi.data.catalogue import (
    DIGITS_TRAIN,
    DIGITS_VAL,
    NAMES,
    PUBLISHED,
    check_sizes,
    is_default_root,
    published_parent,
    root_of,
)
from wasi.data.idx import FILES, candidate_folders, find_files, read_shape
from wasi.data.layout import list_splits
from wasi.data.listing import SPLITS
from wasi.errors import UserError

BROKEN_IDX = (OSError, EOFError, ValueError, zlib.error)


def check_dataset(cfg_dataset) -> None:
    """Refuse data that are not there, or too few. Opens no image.

    Raises:
        UserError: names `dataset.root` and where it looked, or the size that is too large.
    """
    name = cfg_dataset["name"]
    if name not in NAMES:
        raise UserError("dataset.name", name, ", ".join(NAMES))
    if name in PUBLISHED:
        _check_published(cfg_dataset)
    elif name == "fashion_mnist":
        _check_fashion_mnist(cfg_dataset)
    elif name == "digits":
        check_sizes(cfg_dataset, DIGITS_TRAIN, DIGITS_VAL)
    elif name == "image_folder":
        if cfg_dataset["download"]:
            raise UserError("dataset.download", "true", "false for image_folder: the images are your own")
        splits = list_splits(cfg_dataset)
        check_sizes(cfg_dataset, *(sum(map(len, splits[split].values())) for split in SPLITS))


def missing(cfg_dataset, what: str, looked_in: list[Path]) -> UserError:
    """`what` is not there: where was looked, and what to do about it."""
    places = " or ".join(str(folder.absolute()) for folder in looked_in)
    allowed = f"a folder that holds {what} (not found in {places}); dataset.download=true fetches what is missing"
    return UserError("dataset.root", cfg_dataset["root"], allowed)


def bad_idx(cfg_dataset, path: Path, error: Exception) -> UserError:
    return UserError("dataset.root", cfg_dataset["root"], f"a folder with whole IDX files; {path}: {error}")


def _check_published(cfg_dataset) -> None:
    name = cfg_dataset["name"]
    facts = PUBLISHED[name]
    check_sizes(cfg_dataset, facts.train, facts.val)
    if published_parent(cfg_dataset) is None and not cfg_dataset["download"]:
        raise missing(cfg_dataset, f"{facts.folder}/ for dataset={name}", [root_of(cfg_dataset)])


def _check_fashion_mnist(cfg_dataset) -> None:
    folders = candidate_folders(root_of(cfg_dataset), is_default_root(cfg_dataset))
    files = find_files(folders)
    if files:
        check_sizes(cfg_dataset, *(_count(cfg_dataset, files[f"{split}_images"]) for split in SPLITS))
    elif not cfg_dataset["download"]:
        raise missing(cfg_dataset, f"{', '.join(FILES.values())} (or each with .gz)", folders)


def _count(cfg_dataset, path: Path) -> int:
    try:
        return read_shape(path)[0]
    except BROKEN_IDX as error:
        raise bad_idx(cfg_dataset, path, error) from error
