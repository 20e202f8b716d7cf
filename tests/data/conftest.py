import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from wasi.data.fashion_mnist import FILES
from wasi.data.spec import InputSpec

CONF = Path(__file__).parents[2] / "conf" / "dataset"


@pytest.fixture
def config():
    """The composed dataset section: `config("digits", train_size=5)`."""

    def make(name, /, **changes):
        cfg = OmegaConf.load(CONF / f"{name}.yaml")
        cfg.update({key: str(value) if isinstance(value, Path) else value for key, value in changes.items()})
        return cfg

    return make


@pytest.fixture
def spec():
    def make(size=16, interpolation="bilinear"):
        return InputSpec(size, (0.5, 0.4, 0.3), (0.2, 0.25, 0.5), interpolation)

    return make


@pytest.fixture
def idx_folder(tmp_path):
    """Writes a small Fashion-MNIST of 30 training and 10 test images of 6 x 5 pixels."""

    def make(folder=tmp_path / "idx", gz=False):
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        arrays = {}
        for split, count in (("train", 30), ("test", 10)):
            arrays[f"{split}_images"] = rng.integers(0, 256, (count, 6, 5), np.uint8)
            arrays[f"{split}_labels"] = (np.arange(count) % 10).astype(np.uint8)
        for role, array in arrays.items():
            path = folder / (FILES[role] + (".gz" if gz else ""))
            data = idx_bytes(array)
            path.write_bytes(gzip.compress(data) if gz else data)
        return folder, arrays

    return make


def idx_bytes(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def image_tree(tmp_path):
    """An image folder of two classes, 3 training and 2 validation JPEGs each; returns its root."""
    rng = np.random.default_rng(1)
    for split, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "tree" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (24, 40, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg", quality=90)
    return tmp_path / "tree"
