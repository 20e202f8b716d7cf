"""The folder that a run or a sweep writes into, checked before Hydra makes it."""

import os
from pathlib import Path
from tempfile import TemporaryFile

from wasi.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]


def check_folder(option: str, given: str) -> None:
    """Raises UserError for the folder one is in and this package's (a run's files would lie among the project's), a
    file, and a folder that cannot be written into or made."""
    folder = Path(given)
    try:
        place = folder.resolve()
        if not given.strip() or place == Path.cwd() or _PACKAGE in (place, *place.parents):
            raise UserError(option, given, "a folder of its own, for example outputs/NAME")
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    except OSError as error:  # such as a name that is too long
        raise _unmade(option, given, error) from None
    if not existing.is_dir():
        raise UserError(option, given, f"a folder; {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(option, given, f"a folder that can be written into; {existing} cannot")


def make_folder(option: str, given: str) -> None:
    """Make the folder as Hydra is about to, once nothing else is against it.

    Raises UserError where the system refuses that or a file in it, as in /proc, where all permissions seem to be given.
    """
    try:
        Path(given).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=given):
            pass
    except OSError as error:
        raise _unmade(option, given, error) from None


def check_inside(option: str, given: str | None) -> None:
    """Raises UserError for a folder that would not lie inside the one that it belongs to; null is for no folder."""
    if given is not None and (Path(given).is_absolute() or ".." in Path(given).parts):
        raise UserError(option, given, "a name inside the folder of the run or the sweep")


def _unmade(option: str, given: str, error: OSError) -> UserError:
    return UserError(option, given, f"a folder that can be made and written into ({error.strerror})")
