"""From `cfg.dataset` to the images that train, validate and test."""

import logging
from collections import Counter

from torch.utils.data import Dataset

from wasi.data.catalogue import check_dataset, kind_of
from wasi.data.sizes import Available, check_sizes
from wasi.data.spec import Data, InputSpec, Splits
from wasi.data.splits import divide

log = logging.getLogger(__name__)

_MOST_LISTED = 20  # classes


def load_data(cfg_dataset, spec: InputSpec, seed: int) -> Data:
    """The images that this run uses, as the model wants them; `seed` decides only which ones.

    Raises:
        UserError: the data are missing, broken or too few, or could not be downloaded.
    """
    check_dataset(cfg_dataset)
    splits = kind_of(cfg_dataset).load(cfg_dataset, spec)
    check_sizes(cfg_dataset, _available(splits))
    data = divide(cfg_dataset, splits, seed)
    _tell(cfg_dataset, data)
    return data


def _available(splits: Splits) -> Available:
    sizes = [None if part is None else len(part) for part in (splits.train, splits.val, splits.test)]
    return Available(*sizes, classes=len(set(_labels(splits.train))))


def _tell(cfg_dataset, data: Data) -> None:
    """How many images each part has; of a folder that was divided here, how many of which class too."""
    name, cut = cfg_dataset["name"], kind_of(cfg_dataset).cut_parts(cfg_dataset)
    tested = "none for a test" if data.test is None else f"{len(data.test)} test"
    if data.test is data.val:
        log.info("%s: %d images train, %d validate and test: dataset.val_source=test holds nothing out, so that "
                 "test/acc is val/acc", name, len(data.train), len(data.val))  # fmt: skip
    else:
        source = "held out of the training images" if "val" in cut else "of a split of their own"
        log.info("%s: %d images train, %d validate (%s), %s", name, len(data.train), len(data.val), source, tested)
    if name == "image_folder" and cut:
        parts = [data.train, data.val, *([data.test] if data.test is not None else [])]
        counts = [Counter(_labels(part)) for part in parts]
        listed = [
            f"{label} {'/'.join(str(count[number]) for count in counts)}"
            for number, label in enumerate(data.classes[:_MOST_LISTED])
        ]
        more = [f"and {len(data.classes) - _MOST_LISTED} more"] if len(data.classes) > _MOST_LISTED else []
        log.info("images by class (train/val%s): %s", "/test" * (len(parts) > 2), ", ".join(listed + more))


def _labels(part: Dataset) -> list[int]:
    return part.labels.tolist() if hasattr(part.labels, "tolist") else list(part.labels)
