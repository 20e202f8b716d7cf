"""The folder that a run or a sweep writes into, checked before Hydra makes it."""

import os
from pathlib import Path

from wasi.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]


def check_folder(option: str, given: str) -> None:
    """Raises UserError for the folder one is in and this package's (a run's files would lie among the project's), a
    file, and a folder that cannot be written into or made."""
    folder = Path(given)
    place = folder.resolve()
    if not given.strip() or place == Path.cwd() or _PACKAGE in (place, *place.parents):
        raise UserError(option, given, "a folder of its own, for example outputs/NAME")
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(option, given, f"a folder; {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(option, given, f"a folder that can be written into; {existing} cannot")
