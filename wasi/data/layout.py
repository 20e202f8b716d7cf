"""The layout of an image folder, `ROOT/{train,val}/<class>/*`, and what is refused. No torch at import."""

from pathlib import Path

from wasi.data.catalogue import root_of
from wasi.data.listing import SPLITS, class_folders, image_files, is_image
from wasi.errors import UserError

Split = dict[str, list[Path]]  # image files by class


def list_splits(cfg_dataset) -> dict[str, Split]:
    """The images of train and val; UserError unless both have the same two or more classes, none empty."""
    root = root_of(cfg_dataset)
    for folder in (root, *(root / split for split in SPLITS)):
        if not folder.is_dir():
            raise bad_folder(cfg_dataset, f"there is no folder {folder}")
    splits = {
        split: {name: image_files(folder) for name, folder in class_folders(root / split).items()}
        for split in SPLITS
    }
    _check_classes(cfg_dataset, *(set(splits[split]) for split in SPLITS))
    for split, classes in splits.items():
        for path in (root / split).iterdir():
            if is_image(path.name) and path.is_file():
                raise bad_folder(cfg_dataset, f"{path} is in no class folder")
        for name, files in classes.items():
            if not files:
                raise bad_folder(cfg_dataset, f"{root / split / name} holds no image")
    return splits


def bad_folder(cfg_dataset, reason: str) -> UserError:
    layout = "a folder with images in train/<class>/ and val/<class>/"
    return UserError("dataset.root", cfg_dataset["root"], f"{layout}; {reason}")


def _check_classes(cfg_dataset, train: set[str], val: set[str]) -> None:
    alone = [
        f"only {split} has {', '.join(sorted(names)[:5])}{', …' if len(names) > 5 else ''}"
        for split, names in (("train", train - val), ("val", val - train))
        if names
    ]
    if alone:
        raise bad_folder(cfg_dataset, f"{' and '.join(alone)}, where the classes must be the same")
    if len(train) < 2:
        raise bad_folder(cfg_dataset, f"{len(train)} class folder(s) found, at least 2 are needed")
