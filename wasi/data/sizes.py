"""Numbers of training, validation and test images, checked before any image is read. Imports no torch."""

from dataclasses import dataclass

from wasi.errors import UserError


@dataclass(frozen=True)
class Available:
    """Number of images in each published split of a data set; None where it has no such split.

    `classes` is the number of classes with images in the training split.
    """

    train: int
    val: int | None
    test: int | None
    classes: int


def held_out(cfg_dataset, images: int, option: str = "val_size") -> int:
    """Return how many of `images` to hold out: `option`'s value or, if null, `val_fraction` of them, at least one."""
    asked = cfg_dataset[option]
    return max(1, round(cfg_dataset["val_fraction"] * images)) if asked is None else asked


def check_sizes(cfg_dataset, has: Available) -> None:
    """Check that no split is asked for more images than it has, and that every class keeps a training image.

    Raises:
        UserError: an option asks for too many images, or for a split that does not exist; the message names it.
    """
    name = cfg_dataset["name"]
    if has.test is None and cfg_dataset["test_size"] is not None and cfg_dataset["val_source"] != "test":
        raise UserError("dataset.test_size", cfg_dataset["test_size"], f"null, as this {name} has no test split")
    if cfg_dataset["val_source"] == "test":
        if has.test is None:
            raise UserError("dataset.val_source", "test", f"train, as this {name} has no test split")
        _at_most(cfg_dataset, "train_size", has.train + (has.val or 0), "training")
        _at_most(cfg_dataset, "val_size", has.test, "test")
        return
    if has.test is not None:
        _at_most(cfg_dataset, "test_size", has.test, "test")
    if has.val is not None:
        _at_most(cfg_dataset, "val_size", has.val, "validation")
        _at_most(cfg_dataset, "train_size", has.train, "training")
        return
    held = held_out(cfg_dataset, has.train)
    check_held_out(cfg_dataset, "val_size", has.train, has.classes)
    _at_most(cfg_dataset, "train_size", has.train - held, "training", f", {held} of which validate")


def check_held_out(cfg_dataset, option: str, images: int, classes: int) -> None:
    """Raise a UserError unless holding out images leaves at least one training image per class.

    Args:
        option: `val_size` or `test_size`; where it is null, the error names `val_fraction`.
        images: number of images before any is held out.
    """
    most = images - classes
    if held_out(cfg_dataset, images, option) <= most:
        return
    some = f"at most {most} of the {images} images of {cfg_dataset['name']}, so every class keeps one to train"
    if cfg_dataset[option] is None:
        raise UserError("dataset.val_fraction", cfg_dataset["val_fraction"], f"a share that takes {some}")
    raise UserError(f"dataset.{option}", cfg_dataset[option], some)


def _at_most(cfg_dataset, option: str, available: int, split: str, but: str = "") -> None:
    asked = cfg_dataset[option]
    if asked is not None and asked > available:
        limit = f"at most {available} (images in the {split} split of {cfg_dataset['name']}{but})"
        raise UserError(f"dataset.{option}", asked, limit)
