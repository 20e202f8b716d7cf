"""The log file of a job of a sweep, which may be one that cannot be written."""

import logging
import os
from typing import Any

from wasi.config.sweep_options import in_sweep
from wasi.errors import UserError

FILE_ONLY = "wasi.file_only"  # the logger of what goes to the file and not to the terminal


class LogFile(logging.FileHandler):
    """A log file that, in a sweep, is no error if it cannot be opened: `refused` then has the reason.

    Hydra opens it before the job begins, where an error would end the sweep with the jobs that are left.
    """

    refused: UserError | None = None

    def __init__(self, filename: str, **options: Any):
        try:
            super().__init__(filename, **options)
        except OSError as error:
            if not in_sweep():
                raise
            allowed = f"a file that can be written ({error.strerror})"
            self.refused = UserError("hydra.job_logging.handlers.file.filename", filename, allowed)
            super().__init__(os.devnull, **options)


def refused_log_file() -> UserError | None:
    """Return why this job's log file could not be opened; None if it could be, or there is none."""
    files = (handler for handler in logging.getLogger(FILE_ONLY).handlers if isinstance(handler, LogFile))
    return next((file.refused for file in files if file.refused), None)
