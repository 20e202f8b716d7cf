"""scikit-learn's handwritten digits: 1797 grey images of 8 x 8 pixels that come with the library."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from wasi.data.sizes import Available
from wasi.data.spec import InputSpec, Splits

if TYPE_CHECKING:
    import numpy as np

_FILE = "datasets/data/digits.csv.gz"
_CLASSES = 10
_AVAILABLE = Available(train=1_437, val=None, test=360, classes=_CLASSES)


def available(cfg_dataset) -> Available:
    return _AVAILABLE


def identity(cfg_dataset) -> str:
    return "built in"


def cut_parts(cfg_dataset) -> set[str]:
    return {"val"}


def load(cfg_dataset, spec: InputSpec) -> Splits:
    """Return the first 1437 images for training and the last 360 for testing, values 0..16 scaled to 0..255."""
    import numpy as np

    from wasi.data.arrays import from_numpy

    values, labels = read()
    images = np.rint(values.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    train, test = slice(None, _AVAILABLE.train), slice(_AVAILABLE.train, None)
    return Splits(
        from_numpy(images[train], labels[train], spec),
        None,
        from_numpy(images[test], labels[test], spec),
        [str(digit) for digit in range(_CLASSES)],
    )


def read() -> tuple[np.ndarray, np.ndarray]:
    """Return pixel values 0..16, `[1797, 64]`, and labels, `[1797]`."""
    import numpy as np

    # Read from the package's folder, as importing scikit-learn costs a second and 80 MiB.
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or []:
        if (path := Path(folder, _FILE)).is_file():
            table = np.loadtxt(path, delimiter=",")
            return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)
