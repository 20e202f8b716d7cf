"""The measuring subprocess, started as `python -m wasi.bench.child PARENT_PID`.

It reads requests from standard input as JSON lines, `{"do": NAME, ...arguments}`, and answers each with one line:
`{"ok": RESULT}` or `{"status": ..., "error": one line}`. After an error its state is undefined. It exits at the end of
its input.
"""

import json
import logging
import os
import sys
from typing import TextIO

from wasi.bench.parent_death import claim_stdout, die_with_parent
from wasi.runs.ending import ending_of


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


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    answers = claim_stdout()
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(name)s][%(levelname)s] %(message)s")
    from wasi.bench.work import Work

    serve(sys.stdin, answers, Work())
    os._exit(0)  # skips the interpreter's shutdown, which is slow with torch loaded


if __name__ == "__main__":
    main()
