"""The user's own images, one folder per class, all of them checked before training.

Either divided by the user, `ROOT/train/<class>/*` with `ROOT/val/<class>/*` and `ROOT/test/<class>/*` where they
exist, or not divided, `ROOT/<class>/*`, again with `ROOT/test/<class>/*` where it exists.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from wasi.data.root import root_of
from wasi.data.sizes import Available, check_held_out, held_out
from wasi.data.spec import Images, InputSpec, Splits
from wasi.errors import UserError

# What is called an image is one: if it cannot be read, the run ends. Anything else is left alone.
EXTENSIONS = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".webp", ".avif", ".heic", ".heif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico",
}  # fmt: skip
_MOST_TOLD = 20  # unreadable images in one message
WHOLE = ""  # the part of a folder that is not divided: its name below ROOT
_PARTS = ("train", "val", "test")
_MEANT = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}  # what others call them

ByClass = dict[str, list[Path]]  # image files by class


def available(cfg_dataset) -> Available:
    """Counts what `load` gives: of a folder that is not divided, training and test images after their division.

    Raises:
        UserError: another layout, a class without images, different classes, or too few images to divide.
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
    """Number, bytes and digest of the sorted (relative path, size) of all images."""
    root = Path(str(cfg_dataset["root"])).expanduser()
    digest, count, total = hashlib.sha256(), 0, 0
    for classes in _class_folders_by_part(root).values():
        for folder in classes.values():
            for path in image_files(folder):
                size = path.stat().st_size
                digest.update(os.fsencode(path.relative_to(root)) + b"\0%d\n" % size)
                count, total = count + 1, total + size
    return {"images": count, "bytes": total, "sha256": digest.hexdigest()} if count else "absent"


def cut_parts(cfg_dataset) -> set[str]:
    parts = _class_folders_by_part(root_of(cfg_dataset))
    return {"val", "test"} - parts.keys() if WHOLE in parts else {"val"} - parts.keys()


def load(cfg_dataset, spec: InputSpec) -> Splits:
    """Test images of a folder that has none are a stratified part of the whole, the same for every seed.

    Raises:
        UserError: a layout that is not one of the above, or images that cannot be read, which are named.
    """
    from wasi.data.splits import hold_out

    parts, classes = _images_by_part(cfg_dataset, spec)
    if WHOLE in parts and "test" not in parts:
        whole = parts[WHOLE]
        train, tested = hold_out(whole, held_out(cfg_dataset, len(whole), "test_size"), "test")
        return Splits(train, None, tested, classes)
    return Splits(parts[WHOLE if WHOLE in parts else "train"], parts.get("val"), parts.get("test"), classes)


def is_undivided(cfg_dataset) -> bool:
    """Whether the folder is `ROOT/<class>/*` alone, which `load` cuts a test part out of; raises as `available` does,
    but not for too few images."""
    return _listed(cfg_dataset).keys() == {WHOLE}


def load_undivided(cfg_dataset, spec: InputSpec) -> tuple[Images, list[str]]:
    """All images of a folder that is not divided, and its classes; raises as `load` does."""
    parts, classes = _images_by_part(cfg_dataset, spec)
    return parts[WHOLE], classes


def _images_by_part(cfg_dataset, spec: InputSpec) -> tuple[dict[str, Images], list[str]]:
    """The images of each part of the folder, all of which can be read, and the classes by label."""
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
    """Decode every file; UserError that names those that fail, in order, at most `_MOST_TOLD` of them."""
    # Pillow decodes outside the interpreter's lock; few threads, as each holds a whole image.
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        verdicts = zip(paths, pool.map(_verdict, paths), strict=True)
        bar = tqdm(verdicts, "checking images", len(paths), leave=False, disable=None)
        told = [f"{path} cannot be read: {verdict}" for path, verdict in bar if verdict is not None]
    if told:
        more = [f"and {len(told) - _MOST_TOLD} more"] if len(told) > _MOST_TOLD else []
        allowed = f"a folder whose images can all be read; {len(told)} of {len(paths)} cannot"
        raise UserError("dataset.root", cfg_dataset["root"], allowed, "; ".join([*told[:_MOST_TOLD], *more]))


def _verdict(path: Path) -> str | None:
    """Why a file cannot be read, or None."""
    from wasi.data.decode import read_rgb

    try:
        read_rgb(path, reduced=True)
    except UserError as error:
        return f"allowed is {error.allowed}"
    except Exception as error:  # decoders raise what they like: OSError, SyntaxError, ValueError, struct.error, …
        return (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    return None


def _listed(cfg_dataset) -> dict[str, ByClass]:
    """The images of every part; UserError unless all have the same two or more classes, none empty."""
    root = root_of(cfg_dataset)
    if not root.is_dir():
        raise _bad(cfg_dataset, f"there is no folder {root}")
    folders = _class_folders_by_part(root)
    if not {"train", WHOLE} & folders.keys():
        raise _bad(cfg_dataset, f"there is no folder {root / 'train'}")
    for part in {"val", "test"} & folders.get(WHOLE, {}).keys():
        raise _bad(cfg_dataset, f"{root / part} has no class folders")
    for name, path in _class_folders(root).items():
        meant = _MEANT.get(name.lower(), name.lower())
        if name not in _PARTS and meant in _PARTS and _class_folders(path):  # else a class, or left out unseen
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
    """Class folders by part: train, val and test as far as they exist, or `WHOLE` in place of train and val.

    Test images without class folders have no labels, and are left alone beside train. Beside undivided classes, a
    folder of one of these names that holds no class folders is a class itself.
    """
    parts = {part: _class_folders(root / part) for part in _PARTS if (root / part).is_dir()}
    test = {part: classes for part, classes in parts.items() if part == "test" and classes}
    if parts.get("train") or parts.get("val") or len(parts) > 1:
        return {part: classes for part, classes in parts.items() if part != "test"} | test
    return {WHOLE: {name: path for name, path in _class_folders(root).items() if name not in test}, **test}


def _class_folders(part: Path) -> dict[str, Path]:
    """Folders directly below `part`, sorted by name; hidden ones do not count."""
    with os.scandir(part) as entries:
        folders = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    return {name: part / name for name in folders}


def image_files(folder: Path) -> list[Path]:
    """Image files at any depth below `folder`, by extension, sorted; hidden names do not count."""
    found, visited = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in visited:  # a link back up
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in sorted(files) if _is_image(name)]
    return found


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


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
