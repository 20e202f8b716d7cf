"""The data sets by name: checking that their files exist, identifying their content, loading them.

Each kind of data set is a module beside this one with four functions of the section `cfg.dataset`:

- `available(cfg_dataset)` returns the number of images in each published split, or None where that is not known before
  a download or has no limit; it raises UserError where the files are missing;
- `identity(cfg_dataset)` returns a JSON-serialisable description of the files' content;
- `cut_parts(cfg_dataset)` returns which of "val" and "test" have no published split, so that their images are held out
  of the training images;
- `load(cfg_dataset, spec)` returns the published splits (`wasi.data.spec.Splits`), images as bytes, labels from 0 up;
  `wasi.data.arrays.from_numpy` makes a split of arrays.

The first three import no torch and decode no image. For `train.memory_budget_mib`, the size of a data set that is held
in memory is in `_ARRAYS_MIB` of `wasi/training/budget.py`.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from wasi.data import digits, fashion_mnist, image_folder, published, synthetic
from wasi.data.sizes import Available, check_sizes
from wasi.data.spec import Data, InputSpec
from wasi.errors import UserError

log = logging.getLogger(__name__)

_KINDS: dict[str, ModuleType] = {
    **dict.fromkeys(published.ARCHIVES, published),
    "fashion_mnist": fashion_mnist,
    "digits": digits,
    "image_folder": image_folder,
    "synthetic": synthetic,
}
NAMES = tuple(_KINDS)
PLACES = ("root", "download", "num_workers")  # options that do not change which images are used
_looked_at: dict[str, dict] | None = None  # identities by the section `dataset`, see `looking_once`
_MOST_LISTED = 20  # classes named in one log line


def kind_of(cfg_dataset) -> ModuleType:
    """Return the module for `dataset.name`; raises UserError where there is no such data set."""
    name = cfg_dataset["name"]
    if name not in _KINDS:
        raise UserError("dataset.name", name, ", ".join(NAMES))
    return _KINDS[name]


def check_dataset(cfg_dataset) -> None:
    """Check that the data set's files exist and have enough images, without opening an image.

    Raises:
        UserError: the files are missing (the message names the folders searched), or a size asks for too many images.
    """
    available = kind_of(cfg_dataset).available(cfg_dataset)
    if available is not None:
        check_sizes(cfg_dataset, available)


def load_data(cfg_dataset, spec: InputSpec, seed: int) -> Data:
    """Load a data set and divide it into the training, validation and test images of a run.

    Args:
        spec: the model's input size and interpolation.
        seed: decides which images are drawn for each part, and nothing else.

    Raises:
        UserError: the data are missing, broken or too few, or could not be downloaded.
    """
    from wasi.data.splits import divide

    check_dataset(cfg_dataset)
    splits = kind_of(cfg_dataset).load(cfg_dataset, spec)
    val, test = (None if part is None else len(part) for part in (splits.val, splits.test))
    check_sizes(cfg_dataset, Available(len(splits.train), val, test, len(_per_class(splits.train))))
    data = divide(cfg_dataset, splits, seed)
    _tell(cfg_dataset, data)
    return data


def _tell(cfg_dataset, data: Data) -> None:
    """Log how many images each part has, and for an image folder also how many of each class."""
    name, cut = cfg_dataset["name"], kind_of(cfg_dataset).cut_parts(cfg_dataset)
    tested = "none for a test" if data.test is None else f"{len(data.test)} test"
    if data.test is data.val:
        log.info("%s: %d images train, %d validate and test: dataset.val_source=test holds nothing out, so that "
                 "test/acc is val/acc", name, len(data.train), len(data.val))  # fmt: skip
    else:
        source = "held out of the training images" if "val" in cut else "of a split of their own"
        log.info("%s: %d images train, %d validate (%s), %s", name, len(data.train), len(data.val), source, tested)
    if name == "image_folder":
        counts = [_per_class(part) for part in (data.train, data.val, data.test) if part is not None]
        listed = [
            f"{image_folder.in_line(label)} {'/'.join(str(count[number]) for count in counts)}"
            for number, label in enumerate(data.classes[:_MOST_LISTED])
        ]
        more = [f"and {len(data.classes) - _MOST_LISTED} more"] if len(data.classes) > _MOST_LISTED else []
        log.info("images by class (train/val%s): %s", "/test" * (len(counts) > 2), ", ".join(listed + more))
    _warn_of_unseen(data)


def _warn_of_unseen(data: Data) -> None:
    """Log a warning that names the classes without a validation or a test image."""
    without = {}
    for part, images in {"validation": data.val, "test": None if data.test is data.val else data.test}.items():
        seen = set() if images is None else _per_class(images)
        unseen = [image_folder.in_line(label) for number, label in enumerate(data.classes) if number not in seen]
        if images is not None and unseen:
            more = f" and {len(unseen) - _MOST_LISTED} more" if len(unseen) > _MOST_LISTED else ""
            without[part] = ", ".join(unseen[:_MOST_LISTED]) + more
    if without:
        text = "; ".join(f"no {part} image of class {names}" for part, names in without.items())
        log.warning("%s: accuracies on these parts, and choices made by them, say nothing of these classes", text)


def _per_class(part) -> Counter[int]:
    """Return the number of images of each label."""
    return Counter(part.labels.tolist() if hasattr(part.labels, "tolist") else part.labels)


@contextmanager
def looking_once() -> Iterator[None]:
    """Inside, `dataset_identity` reads each data set at most once: walking a large folder of images takes seconds."""
    global _looked_at
    _looked_at = {}
    try:
        yield
    finally:
        _looked_at = None


def dataset_identity(cfg_dataset) -> dict:
    """Return a JSON-serialisable dictionary that is equal only where the same images are used in the same way.

    It does not depend on the folder of the data. `val_fraction` is part of it only where it decides a size. A size that
    is written out counts as another choice than null, even where null gives as many images. "content" is "absent" where
    the files are not found. Never raises.
    """
    if _looked_at is None:
        return _identity(cfg_dataset)
    key = json.dumps({str(name): cfg_dataset[name] for name in cfg_dataset}, sort_keys=True, default=str)
    if key not in _looked_at:
        _looked_at[key] = _identity(cfg_dataset)
    return _looked_at[key]


def _identity(cfg_dataset) -> dict:
    content, cut = "absent", {"val", "test"}
    choices = {str(key): cfg_dataset[key] for key in cfg_dataset if key not in PLACES}
    try:
        kind = kind_of(cfg_dataset)
        cut = kind.cut_parts(cfg_dataset)
        content = kind.identity(cfg_dataset)
    except (UserError, OSError, EOFError, ValueError):
        pass
    if not _fraction_counts(choices, cut):
        choices.pop("val_fraction", None)
    return {**choices, "name": str(cfg_dataset["name"]), "content": content}


def _fraction_counts(cfg_dataset: Mapping[str, Any], cut: Set[str]) -> bool:
    """Return whether `val_fraction` decides the size of a part."""
    held = set() if cfg_dataset.get("val_source") == "test" else {"val"}
    return any(cfg_dataset.get(f"{part}_size") is None for part in cut & (held | {"test"}))
