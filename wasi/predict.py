"""`python -m wasi.predict RUN IMAGE|FOLDER ...`: classes and probabilities of images by a trained model."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, which take a while
    from wasi.process_exit import quiet_while_importing

    quiet_while_importing()

import argparse
import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wasi.atomic import atomic_write_text
from wasi.data.image_folder import as_utf8, image_files, in_line
from wasi.errors import UserError, one_line
from wasi.models.weights_file import RUN, run_header
from wasi.output_file import check_output_file
from wasi.runs.command import run_cli
from wasi.runs.ending import print_error
from wasi.runs.folder import check_working_folder, path_of

if TYPE_CHECKING:
    from torch import Tensor

    from wasi.data.spec import InputSpec

Ranking = list[tuple[str, float]]  # class and probability, the likeliest first


def main() -> int:
    options = _parser().parse_args()
    check_working_folder()
    header = run_header(options.run)  # refuses a wrong folder before torch is imported
    if options.csv is not None:
        check_output_file("--csv", options.csv)
    rankings: dict[Path, Ranking] = {}
    unreadable: list[tuple[Path, str]] = []
    paths = _listed(options.images, unreadable)
    if options.csv is not None and os.path.realpath(options.csv) in map(os.path.realpath, paths):
        raise UserError("--csv", options.csv, "another file than the images")
    for path, ranking in predict(options.run, paths, options.top, options.batch_size, unreadable):
        rankings[path] = ranking
        print(f"{_shown(path)}  " + "  ".join(f"{in_line(name)} {share:.4f}" for name, share in ranking), flush=True)
    if options.csv is not None:
        atomic_write_text(options.csv, _as_csv(rankings))
        print(f"{options.csv}: {len(rankings)} images, {min(options.top, header.num_classes)} classes each")
    for path, reason in unreadable:
        print_error(f"{_shown(path)} cannot be read: {one_line(reason)}")
    return 1 if unreadable else 0


def predict(
    run: Path, paths: Iterable[Path], top: int, batch_size: int, unreadable: list[tuple[Path, str]]
) -> Iterator[tuple[Path, Ranking]]:
    """Yield each image's path with its `top` classes, in the order given.

    An image that cannot be read is appended to `unreadable` with the reason instead.

    Raises:
        UserError: `run` has no model that can be opened.
    """
    import torch

    from wasi.data.normalize import Normalize
    from wasi.models.saved import open_model

    model, header = open_model(run)
    normalize, top = Normalize(header.input), min(top, header.num_classes)
    for names, images in _batches(paths, header.input, batch_size, unreadable):
        with torch.inference_mode():
            shares, labels = model(normalize(images)).softmax(1).topk(top)
        for name, *found in zip(names, shares.tolist(), labels.tolist(), strict=True):
            yield name, [(header.classes[label], share) for share, label in zip(*found, strict=True)]


def _batches(
    paths: Iterable[Path], spec: InputSpec, batch_size: int, unreadable: list[tuple[Path, str]]
) -> Iterator[tuple[list[Path], Tensor]]:
    """Yield up to `batch_size` readable images at a time: their paths, and uint8 pixels `[B, 3, S, S]`."""
    import torch

    from wasi.data.decode import read_rgb, to_tensor

    names, images = [], []
    for path in paths:
        try:
            images.append(to_tensor(read_rgb(path), spec))
        except Exception as error:  # decoders raise exceptions of many types
            unreadable.append((path, str(error) or type(error).__name__))
            continue
        names.append(path)
        if len(names) == batch_size:
            yield names, torch.stack(images)
            names, images = [], []
    if names:
        yield names, torch.stack(images)


def _listed(images: Sequence[Path], unreadable: list[tuple[Path, str]]) -> list[Path]:
    """Return files as they are given, and for folders all images below them.

    A folder that cannot be listed is appended to `unreadable` with the reason.

    Raises:
        UserError: a folder has no images.
    """
    paths = []
    for given in images:
        refused: list[OSError] = []
        # `Path.is_dir` would raise for a path that may not be looked at, which is told when it is read.
        found = image_files(given, refused.append) if os.path.isdir(given) else [given]
        if not found and not refused:
            raise UserError("IMAGE", given, "an image file, or a folder with some in it")
        paths += found
        unreadable += [(Path(error.filename), str(error.strerror)) for error in refused]
    return paths


def _as_csv(rankings: dict[Path, Ranking]) -> str:
    """Return a table with one row per image and class: image, rank (from 1), class, probability."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "rank", "class", "probability"))
    for path, ranking in rankings.items():
        writer.writerows((as_utf8(path), rank, name, share) for rank, (name, share) in enumerate(ranking, 1))
    return text.getvalue()


def _shown(path: Path) -> str:
    """Return the path for a line of the terminal."""
    return in_line(as_utf8(path))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wasi.predict",
        description="The likeliest classes of images by the model of a finished run. Images that cannot be read "
        "are listed at the end, and the exit status is 1 then.",
    )
    a_run = "a finished run's folder, or its model.safetensors"
    parser.add_argument("run", metavar="RUN", type=path_of(RUN), help=a_run)
    an_image = "an image, or a folder of them at any depth"
    parser.add_argument("images", metavar="IMAGE|FOLDER", nargs="+", type=path_of("IMAGE"), help=an_image)
    parser.add_argument("--top", type=_count, default=5, metavar="N", help="classes per image (5)")
    table = "write image, rank, class and probability there"
    parser.add_argument("--csv", type=path_of("--csv"), metavar="FILE", help=table)
    parser.add_argument("--batch-size", type=_count, default=32, metavar="N", help="images at a time (32)")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 up")
    return int(text)


if __name__ == "__main__":
    run_cli(main)
