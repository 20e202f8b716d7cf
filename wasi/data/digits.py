"""scikit-learn's handwritten digits: 1797 grey images of 8 x 8 pixels, embedded in the library."""

import numpy as np
from sklearn.datasets import load_digits

from wasi.data.arrays import from_numpy
from wasi.data.catalogue import DIGITS_TRAIN
from wasi.data.spec import Data, InputSpec


def load(cfg_dataset, spec: InputSpec) -> Data:
    """The first 1437 images train and the last 360 validate; values 0..16 become 0..255."""
    raw = load_digits()
    images = np.rint(raw.images * (255 / 16)).astype(np.uint8)
    train, val = slice(None, DIGITS_TRAIN), slice(DIGITS_TRAIN, None)
    return Data(
        from_numpy(images[train], raw.target[train], spec),
        from_numpy(images[val], raw.target[val], spec),
        [str(name) for name in raw.target_names],
    )
