"""The measuring subprocess, started as `python -m wasi.bench.child PARENT_PID`.

It reads requests from standard input as JSON lines, `{"do": NAME, ...arguments}`, and answers each with one line:
`{"ok": RESULT}` or `{"status": ..., "error": one line}`. After an error its state is undefined. It exits at the end of
its input.
"""

import ctypes
import json
import logging
import os
import signal
import sys
from typing import TextIO

from wasi.runs.ending import ending_of

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def serve(requests: TextIO, answers: TextIO, work: object) -> None:
    """Call the method of `work` that each line of `requests` names, and write its answer to `answers`."""
    while line := requests.readline():
        request = json.loads(line)
        print(json.dumps(_answer(work, request.pop("do"), request)), file=answers, flush=True)


def _answer(work: object, name: str, arguments: dict) -> dict:
    try:
        return {"ok": getattr(work, name)(**arguments)}
    except BaseException as error:  # MemoryError and SystemExit too, so that the parent gets an answer
        ending = ending_of(error)
        print(ending.details or ending.error, file=sys.stderr, flush=True)
        return {"status": ending.status, "error": ending.error}


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


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    answers = claim_stdout()
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(name)s][%(levelname)s] %(message)s")
    from wasi.bench.work import Work

    serve(sys.stdin, answers, Work())
    os._exit(0)  # skips the interpreter's shutdown, which is slow with torch loaded


if __name__ == "__main__":
    main()
