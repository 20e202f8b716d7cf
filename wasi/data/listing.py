"""Which files of an image folder are its images. No torch at import."""

import os
from pathlib import Path

# What is called an image is one: if it cannot be read, the run ends. Anything else is left alone.
EXTENSIONS = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".webp", ".avif", ".heic", ".heif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico",
}  # fmt: skip
SPLITS = ("train", "val")


def class_folders(split: Path) -> dict[str, Path]:
    """Folders directly below `split`, sorted by name; hidden ones do not count."""
    with os.scandir(split) as entries:
        folders = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    return {name: split / name for name in folders}


def image_files(folder: Path) -> list[Path]:
    """Image files at any depth below `folder`, by extension, sorted; hidden names do not count."""
    found, visited = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in visited:  # a link back up
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in sorted(files) if is_image(name)]
    return found


def is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS
