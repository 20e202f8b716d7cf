"""scikit-learn's handwritten digits: 1797 grey images of 8 x 8 pixels, embedded in the library."""

import importlib.util
from pathlib import Path

import numpy as np

from wasi.data.arrays import from_numpy
from wasi.data.catalogue import DIGITS_TRAIN
from wasi.data.spec import Data, InputSpec

_FILE = "datasets/data/digits.csv.gz"
_CLASSES = 10


def load(cfg_dataset, spec: InputSpec) -> Data:
    """The first 1437 images train and the last 360 validate; values 0..16 become 0..255."""
    values, labels = read()
    images = np.rint(values.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    train, val = slice(None, DIGITS_TRAIN), slice(DIGITS_TRAIN, None)
    return Data(
        from_numpy(images[train], labels[train], spec),
        from_numpy(images[val], labels[val], spec),
        [str(digit) for digit in range(_CLASSES)],
    )


def read() -> tuple[np.ndarray, np.ndarray]:
    """Values 0..16 `[1797, 64]` and labels `[1797]`."""
    # Importing scikit-learn costs a second and 80 MiB, which a small device would rather keep.
    package = importlib.util.find_spec("sklearn").submodule_search_locations[0]
    if (path := Path(package, _FILE)).is_file():
        table = np.loadtxt(path, delimiter=",")
        return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)
