"""The folder that a run or a sweep writes into, checked before Hydra makes it."""

import os
from pathlib import Path

from wasi.errors import UserError


def check_folder(option: str, given: str) -> None:
    """Raises UserError for the folder one is in (a run's files would lie among the project's), a file, and a folder
    that cannot be written into or made."""
    folder = Path(given)
    if not given.strip() or folder.resolve() == Path.cwd():
        raise UserError(option, given, "a folder of its own, for example outputs/NAME")
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(option, given, f"a folder; {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(option, given, f"a folder that can be written into; {existing} cannot")
