"""Fashion-MNIST from its IDX files, compressed or not, wherever they are."""

import logging
from pathlib import Path

import numpy as np

from wasi.data.arrays import ArrayImages, from_numpy
from wasi.data.catalogue import is_default_root, root_of
from wasi.data.check import BROKEN_IDX, bad_idx
from wasi.data.download import downloading
from wasi.data.idx import DEBIAN_FOLDER, FILES, candidate_folders, find_files, read_array
from wasi.data.spec import Data, InputSpec

log = logging.getLogger(__name__)

CLASSES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip


def load(cfg_dataset, spec: InputSpec) -> Data:
    """Raises UserError for files that are not whole, do not fit each other, or cannot be downloaded."""
    root = root_of(cfg_dataset)
    folders = candidate_folders(root, is_default_root(cfg_dataset))
    files = find_files(folders) or _download(cfg_dataset, root, folders)
    folder = files["train_images"].parent
    if folder == DEBIAN_FOLDER and root != DEBIAN_FOLDER:
        log.info("fashion_mnist: nothing in %s, using Debian's files in %s", root, folder)
    return Data(_split(cfg_dataset, files, "train", spec), _split(cfg_dataset, files, "val", spec), list(CLASSES))


def _download(cfg_dataset, root: Path, folders: list[Path]):
    from torchvision.datasets import FashionMNIST

    with downloading(cfg_dataset, "the four files " + ", ".join(FILES.values())):
        FashionMNIST(str(root), download=True)
    return find_files(folders)


def _split(cfg_dataset, files, split: str, spec: InputSpec) -> ArrayImages:
    images = _array(cfg_dataset, files[f"{split}_images"], dimensions=3)
    labels = _array(cfg_dataset, files[f"{split}_labels"], dimensions=1)
    if len(images) != len(labels) or not len(labels) or labels.max() >= len(CLASSES):
        reason = f"{len(labels)} labels up to {max(labels, default=0)} for {len(images)} images of 10 classes"
        raise bad_idx(cfg_dataset, files[f"{split}_labels"], ValueError(reason))
    return from_numpy(images, labels, spec)


def _array(cfg_dataset, path: Path, dimensions: int) -> np.ndarray:
    try:
        array = read_array(path)
        if array.ndim != dimensions:
            raise ValueError(f"{array.ndim} dimensions where {dimensions} are needed")
    except BROKEN_IDX as error:
        raise bad_idx(cfg_dataset, path, error) from error
    return array
