"""What a configuration's data are, for the fingerprint: user's files by list and size. No torch at import."""

import hashlib
import os
from pathlib import Path

from wasi.data.catalogue import PUBLISHED, is_default_root
from wasi.data.idx import FILES, candidate_folders, describe, find_files
from wasi.data.listing import SPLITS, class_folders, image_files

_CHOICES = ("train_size", "val_size", "image_size", "batch_size", "hflip")
# What `dataset.download=true` brings: known before it is there, so that a first run and its repetition are equal.
_FASHION_MNIST = {
    "train_images": (47_040_016, 0xB4F29F28),
    "train_labels": (60_008, 0x741A4657),
    "val_images": (7_840_016, 0x678FE0B1),
    "val_labels": (10_008, 0x80142C1F),
}


def dataset_identity(cfg_dataset) -> dict:
    """JSON-able; equal exactly when the same images are used in the same way, wherever they lie. Never raises.

    Its "content" is "absent" where files that are read as they are cannot be found.
    """
    name = str(cfg_dataset["name"])
    try:
        content = _content(name, cfg_dataset)
    except (OSError, EOFError, ValueError):
        content = "absent"
    return {"name": name, "content": content, **{key: cfg_dataset.get(key) for key in _CHOICES}}


def _content(name: str, cfg_dataset):
    if name == "image_folder":
        return _image_folder(Path(str(cfg_dataset["root"])).expanduser())
    if name == "fashion_mnist":
        return _fashion_mnist(cfg_dataset)
    return "published" if name in PUBLISHED else "built in"


def _fashion_mnist(cfg_dataset):
    root = Path(str(cfg_dataset["root"])).expanduser()
    files = find_files(candidate_folders(root, is_default_root(cfg_dataset)))
    if files:
        return [describe(path) for path in files.values()]
    if not cfg_dataset.get("download"):
        return "absent"
    return [{"file": FILES[role], "bytes": size, "crc32": crc} for role, (size, crc) in _FASHION_MNIST.items()]


def _image_folder(root: Path):
    """Number, bytes and digest of the sorted (relative path, size) of all images."""
    digest, count, total = hashlib.sha256(), 0, 0
    for split in SPLITS:
        for folder in class_folders(root / split).values():
            for path in image_files(folder):
                size = path.stat().st_size
                digest.update(os.fsencode(path.relative_to(root)) + b"\0%d\n" % size)
                count, total = count + 1, total + size
    return {"images": count, "bytes": total, "sha256": digest.hexdigest()} if count else "absent"
