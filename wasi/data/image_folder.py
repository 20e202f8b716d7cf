"""The user's own images, one folder per class; every file is decoded once before training.

Two layouts are read. Divided: `ROOT/train/<class>/*`, with `ROOT/val/<class>/*` and `ROOT/test/<class>/*` where they
exist. Undivided: `ROOT/<class>/*`, with `ROOT/test/<class>/*` where it exists.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from wasi.data.root import looking_below_root, root_of
from wasi.data.sizes import Available, check_held_out, held_out
from wasi.data.spec import Images, InputSpec, Splits
from wasi.errors import UserError, first_line
from wasi.paths import expanded

# A file with one of these extensions must be readable, else the run is refused; all other files are ignored.
EXTENSIONS = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".webp", ".avif", ".heic", ".heif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico",
}  # fmt: skip
# Folders in which macOS archives keep metadata, and Synology's file servers thumbnails of all photos.
_METADATA = {"__MACOSX", "@eaDir"}
_CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(32), 127)}
_MOST_TOLD = 20  # unreadable images in one message
WHOLE = ""  # the part name of an undivided folder's images; as a path below ROOT it is ROOT itself
_PARTS = ("train", "val", "test")
_MEANT = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}  # refused with a hint

ByClass = dict[str, list[Path]]  # image files by class


def available(cfg_dataset) -> Available:
    """Return the number of images in each split that `load` returns.

    Raises:
        UserError: the layout is neither of the two, a class has no images, the parts have different classes, or there
            are too few images to hold out a test part.
    """
    if cfg_dataset["download"]:
        raise UserError("dataset.download", "true", "false for image_folder: the images are your own")
    parts = _listed(cfg_dataset)
    counts = {part: sum(map(len, classes.values())) for part, classes in parts.items()}
    training = WHOLE if WHOLE in parts else "train"
    train, classes = counts[training], len(parts[training])
    if WHOLE in parts and "test" not in parts:
        check_held_out(cfg_dataset, "test_size", train, classes)
        counts["test"] = held_out(cfg_dataset, train, "test_size")
        train -= counts["test"]
    return Available(train, counts.get("val"), counts.get("test"), classes)


def identity(cfg_dataset):
    """Return number, total bytes and a digest of the (relative path, size) of all images, or "absent"."""
    root = expanded(str(cfg_dataset["root"]))
    digest, count, total = hashlib.sha256(), 0, 0
    for classes in _class_folders_by_part(root).values():
        for folder in classes.values():
            for path in image_files(folder):
                size = path.stat().st_size
                digest.update(os.fsencode(path.relative_to(root)) + b"\0%d\n" % size)
                count, total = count + 1, total + size
    return {"images": count, "bytes": total, "sha256": digest.hexdigest()} if count else "absent"


def cut_parts(cfg_dataset) -> set[str]:
    with looking_below_root(cfg_dataset):
        parts = _class_folders_by_part(root_of(cfg_dataset))
    return {"val", "test"} - parts.keys() if WHOLE in parts else {"val"} - parts.keys()


def load(cfg_dataset, spec: InputSpec) -> Splits:
    """Return the splits; an undivided folder without `test` has a stratified part held out, the same for every seed.

    Raises:
        UserError: the layout is neither of the two, or images cannot be read; the message names them.
    """
    from wasi.data.splits import hold_out

    parts, classes = _images_by_part(cfg_dataset, spec)
    if WHOLE in parts and "test" not in parts:
        whole = parts[WHOLE]
        train, tested = hold_out(whole, held_out(cfg_dataset, len(whole), "test_size"), "test")
        return Splits(train, None, tested, classes)
    return Splits(parts[WHOLE if WHOLE in parts else "train"], parts.get("val"), parts.get("test"), classes)


def is_undivided(cfg_dataset) -> bool:
    """Return whether the folder is `ROOT/<class>/*` alone, so that `load` holds out a test part.

    Raises as `available` does, but not for too few images.
    """
    return _listed(cfg_dataset).keys() == {WHOLE}


def load_undivided(cfg_dataset, spec: InputSpec) -> tuple[Images, list[str]]:
    """Return all images of an undivided folder, and its classes by label; raises as `load` does."""
    parts, classes = _images_by_part(cfg_dataset, spec)
    return parts[WHOLE], classes


def _images_by_part(cfg_dataset, spec: InputSpec) -> tuple[dict[str, Images], list[str]]:
    """Return the images of each part, after checking that all can be read, and the classes by label."""
    from wasi.data.decode import FileImages

    def images(by_class: ByClass) -> FileImages:
        labelled = [(path, label) for label, name in enumerate(classes) for path in by_class[name]]
        return FileImages([path for path, _ in labelled], [label for _, label in labelled], spec)

    parts = _listed(cfg_dataset)
    everything = [path for by_class in parts.values() for files in by_class.values() for path in files]
    refuse_unreadable(cfg_dataset, everything)
    classes = sorted(next(iter(parts.values())))
    return {part: images(by_class) for part, by_class in parts.items()}, classes


def refuse_unreadable(cfg_dataset, paths: Sequence[Path]) -> None:
    """Decode every file; raises a UserError that names those that fail, at most `_MOST_TOLD` of them."""
    # Pillow releases the GIL while decoding; at most four threads, as each holds a whole image.
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        verdicts = zip(paths, pool.map(_verdict, paths), strict=True)
        bar = tqdm(verdicts, "checking images", len(paths), leave=False, disable=None)
        lines = [f"{path} cannot be read: {verdict}" for path, verdict in bar if verdict is not None]
    if lines:
        more = [f"and {len(lines) - _MOST_TOLD} more"] if len(lines) > _MOST_TOLD else []
        allowed = f"a folder whose images can all be read; {len(lines)} of {len(paths)} cannot"
        raise UserError("dataset.root", cfg_dataset["root"], allowed, "; ".join([*lines[:_MOST_TOLD], *more]))


def _verdict(path: Path) -> str | None:
    """Return why a file cannot be decoded, or None."""
    from wasi.data.decode import read_rgb

    try:
        read_rgb(path, reduced=True)
    except UserError as error:
        return f"allowed is {error.allowed}"
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, …
        return first_line(error)
    return None


def _listed(cfg_dataset) -> dict[str, ByClass]:
    """Return the files of every part.

    Raises:
        UserError: the parts do not have the same two or more non-empty classes, or a folder cannot be listed.
    """
    with looking_below_root(cfg_dataset):
        return _listed_below(root_of(cfg_dataset), cfg_dataset)


def _listed_below(root: Path, cfg_dataset) -> dict[str, ByClass]:
    if not root.is_dir():
        raise _bad(cfg_dataset, f"there is no folder {root}")
    folders = _class_folders_by_part(root)
    if not {"train", WHOLE} & folders.keys():
        raise _bad(cfg_dataset, f"there is no folder {root / 'train'}")
    for part in {"val", "test"} & folders.get(WHOLE, {}).keys():
        raise _bad(cfg_dataset, f"{root / part} has no class folders")
    for name, path in _class_folders(root).items():
        meant = _MEANT.get(name.lower(), name.lower())
        if name not in _PARTS and meant in _PARTS and _class_folders(path):  # else a class, or ignored
            raise _bad(cfg_dataset, f"{path} has class folders; a folder of that part is called {meant}")
    _check_classes(cfg_dataset, folders)
    parts = {part: {name: image_files(f) for name, f in classes.items()} for part, classes in folders.items()}
    for part, classes in parts.items():
        for path in (root / part).iterdir():
            if _is_image(path.name) and path.is_file():
                raise _bad(cfg_dataset, f"{path} is in no class folder")
        for name, files in classes.items():
            if not files:
                raise _bad(cfg_dataset, f"{root / part / name} holds no image")
    return parts


def _class_folders_by_part(root: Path) -> dict[str, dict[str, Path]]:
    """Return part -> class -> folder: train, val and test where they exist, or `WHOLE` in place of train and val.

    In a divided folder, a `test` without class folders (images without labels) is ignored. In an undivided folder, a
    folder named train, val or test that holds no class folders is a class.
    """
    parts = {part: _class_folders(root / part) for part in _PARTS if (root / part).is_dir()}
    test = {part: classes for part, classes in parts.items() if part == "test" and classes}
    if parts.get("train") or parts.get("val") or len(parts) > 1:
        return {part: classes for part, classes in parts.items() if part != "test"} | test
    return {WHOLE: {name: path for name, path in _class_folders(root).items() if name not in test}, **test}


def _class_folders(part: Path) -> dict[str, Path]:
    """Return name -> path of the folders directly below `part`, sorted by path, without hidden ones.

    Names are valid UTF-8, as they are written into files; see `as_utf8`.
    """
    with os.scandir(part) as entries:
        folders = sorted(e.name for e in entries if e.is_dir() and not _is_hidden(e.name))
    return {as_utf8(name): part / name for name in folders}


def as_utf8(path: str | Path) -> str:
    """Return a path or name as valid UTF-8; a byte that is not, as of a name in Latin-1, is written as `\\xe9`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def in_line(name: str) -> str:
    """Return a name with control characters such as line feeds as `\\n`, so that it stays on its line of text."""
    return name.translate(_CONTROL)


def _raise(error: OSError) -> NoReturn:
    raise error


def image_files(folder: Path, refused: Callable[[OSError], object] = _raise) -> list[Path]:
    """Return the image files at any depth below `folder`, in a fixed order, without hidden files and folders.

    Args:
        refused: is called with the error of each folder that cannot be listed.
    """
    found, visited = [], set()
    for parent, folders, files in os.walk(folder, onerror=refused, followlinks=True):
        if (real := os.path.realpath(parent)) in visited:  # a symbolic link to a folder above it
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        found += [Path(parent, name) for name in sorted(files) if _is_image(name)]
    return found


def _is_image(name: str) -> bool:
    return not _is_hidden(name) and os.path.splitext(name)[1].lower() in EXTENSIONS


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _METADATA


def _check_classes(cfg_dataset, parts: dict[str, dict[str, Path]]) -> None:
    first, *others = parts
    for other in others:
        alone = [
            f"only {part or 'the folder'} has {', '.join(sorted(names)[:5])}{', …' if len(names) > 5 else ''}"
            for part, names in (
                (first, parts[first].keys() - parts[other].keys()),
                (other, parts[other].keys() - parts[first].keys()),
            )
            if names
        ]
        if alone:
            raise _bad(cfg_dataset, f"{' and '.join(alone)}, where the classes must be the same")
    if len(parts[first]) < 2:
        raise _bad(cfg_dataset, f"{len(parts[first])} class folder(s) found, at least 2 are needed")


def _bad(cfg_dataset, reason: str) -> UserError:
    layout = "a folder with images in train/<class>/, val/<class>/ and test/<class>/, or in <class>/ undivided"
    return UserError("dataset.root", cfg_dataset["root"], f"{layout}; {reason}")
