"""The user's own images, `ROOT/{train,val}/<class>/*`, all of them checked before training."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from wasi.data.decode import read_rgb
from wasi.data.files import FileImages
from wasi.data.layout import Split, bad_folder, list_splits
from wasi.data.spec import Data, InputSpec


def load(cfg_dataset, spec: InputSpec) -> Data:
    """Raises UserError for a layout that is not the one above, and for the first image that cannot be read."""
    splits = list_splits(cfg_dataset)
    everything = [path for split in splits.values() for files in split.values() for path in files]
    refuse_unreadable(cfg_dataset, everything)
    return Data(_images(splits["train"], spec), _images(splits["val"], spec), sorted(splits["train"]))


def refuse_unreadable(cfg_dataset, paths: Sequence[Path]) -> None:
    """Decode every file; UserError that names the first one (in order) that fails."""
    # Pillow decodes outside the interpreter's lock; few threads, as each holds a whole image.
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        verdicts = zip(paths, pool.map(_verdict, paths), strict=True)
        for path, verdict in tqdm(verdicts, "checking images", len(paths), leave=False, disable=None):
            if verdict is not None:
                pool.shutdown(cancel_futures=True)
                raise bad_folder(cfg_dataset, f"{path} cannot be read: {verdict}")


def _verdict(path: Path) -> str | None:
    """Why a file cannot be read, or None."""
    try:
        read_rgb(path, reduced=True)
    except Exception as error:  # decoders raise what they like: OSError, SyntaxError, ValueError, struct.error, …
        return (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    return None


def _images(split: Split, spec: InputSpec) -> FileImages:
    labelled = [(path, label) for label, name in enumerate(sorted(split)) for path in split[name]]
    return FileImages([path for path, _ in labelled], [label for _, label in labelled], spec)
