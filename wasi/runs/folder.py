"""Checks of paths: of the folder that a run or a sweep writes into, before Hydra creates it, and of commands' words."""

import fnmatch
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

from wasi import file_names
from wasi.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]


def check_folder(option: str, given: str) -> None:
    """Raise `UserError` for a folder that a run must not, or cannot, write into.

    These are the working folder and this package's, where a run's files would lie among the project's, a file, and a
    folder that cannot be written into or created.
    """
    folder = Path(given)
    if given == "~" or given.startswith("~/"):  # the shell expands it only at the beginning of a word
        raise UserError(option, given, f"a path without ~, such as {folder.expanduser()}")
    try:
        resolved = folder.resolve()
        if not given.strip() or resolved == Path.cwd() or _PACKAGE in (resolved, *resolved.parents):
            raise UserError(option, given, "a folder of its own, for example outputs/NAME")
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    except OSError as error:  # such as a name that is too long
        raise _unmade(option, given, error) from None
    if not existing.is_dir():
        raise UserError(option, given, f"a folder; {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(option, given, f"a folder that can be written into; {existing} cannot")


def make_folder(option: str, given: str) -> None:
    """Create the folder as Hydra is about to; called when all other checks have passed.

    Raises:
        UserError: the system refuses the folder, or a file in it, as in /proc, where permissions alone do not show
            that.
    """
    try:
        Path(given).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=given):
            pass
    except OSError as error:
        raise _unmade(option, given, error) from None


def check_working_folder() -> None:
    """Refuse a deleted working folder, in which torch's MKL would end the process without a word.

    Raises:
        FileNotFoundError: it is deleted.
    """
    os.getcwd()


def sweep_of(option: str) -> Callable[[str], Path]:
    """As `path_of`, for a folder of results: a name that no folder here has is that of a sweep below multirun/."""

    def path(given: str) -> Path:
        found, in_multirun = path_of(option)(given), Path("multirun", given)
        return in_multirun if not found.exists() and in_multirun.is_dir() else found

    return path


def path_of(option: str) -> Callable[[str], Path]:
    """Return what makes a command's word a path; it raises `UserError` for an empty word.

    `Path("")` would be the working folder, which an empty variable of a shell does not ask for.
    """

    def path(given: str) -> Path:
        if not given.strip():
            raise UserError(option, given, "a path; . is the working folder")
        return Path(given)

    return path


def files_below(folder: Path, pattern: str) -> list[Path]:
    """Return the files at any depth below `folder` whose names match, sorted; links to folders are not followed.

    Raises:
        OSError: a folder cannot be listed. `Path.rglob` would pass over it without a word, and what it holds with it.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):  # removed meanwhile; `folder` is a file
            raise error

    walked = os.walk(folder, onerror=refuse)
    return sorted(Path(where, name) for where, _, names in walked for name in fnmatch.filter(names, pattern))


def check_inside(option: str, given: str | None) -> None:
    """Raise `UserError` for a path that is absolute, has `..` in it, or takes the name of a file that is written there.

    Null means no folder.
    """
    path = Path(given or "")
    if path.is_absolute() or ".." in path.parts:
        raise UserError(option, given, "a name inside the folder of the run or the sweep")
    if path.parts and file_names.is_written(path.parts[0]):
        raise UserError(option, given, f"a name that no file of a run or a sweep has, unlike {path.parts[0]}")


def _unmade(option: str, given: str, error: OSError) -> UserError:
    return UserError(option, given, f"a folder that can be made and written into ({error.strerror})")
