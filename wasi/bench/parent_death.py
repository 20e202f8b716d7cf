"""For measuring processes: exit with the parent, and keep standard output free for the protocol."""

import ctypes
import os
import signal
import sys
from typing import TextIO

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Let Linux kill this process when its parent dies; exit now if it is dead already.

    On other systems the process ends when its standard input does.

    Args:
        parent: the parent's process id.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call of prctl
        os._exit(1)


def claim_stdout() -> TextIO:
    """Return the pipe to the parent (the original standard output), and redirect standard output to standard error."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout.flush()
    os.dup2(2, 1)
    return pipe
