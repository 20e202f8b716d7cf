"""The parent's end: starting measuring processes, asking them, and telling how they died. No torch."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wasi.runs.ending import one_line

_ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = (sys.executable, "-m", "wasi.bench.child")


class ChildFailed(Exception):
    """A measuring process refused, failed or died; `status` as in bench.json, the message is one line."""

    def __init__(self, status: str, line: str):
        self.status = status
        super().__init__(line)


class Child:
    """One measuring process. `ask` blocks on its pipe until it has answered.

    Args:
        role: what stands before its failures, or "" for nothing.
        log: file that receives what it prints, appended.
        environment: added to this process's own.
        program: command to which this process's id is appended.
    """

    def __init__(
        self,
        role: str,
        log: Path,
        environment: Mapping[str, str],
        program: Sequence[str] = _PROGRAM,
    ):
        self._role, self._log, self._waiting = role, log, False
        with open(log, "ab") as errors:
            self._log_start = errors.tell()
            self._process = subprocess.Popen(
                [*program, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_with_path({**os.environ, **environment}),
                start_new_session=True,  # Ctrl-C is for the parent, which decides what is kept
                encoding="utf-8",
            )

        assert self._process.stdin is not None and self._process.stdout is not None  # pipes, as was asked for
        self._to, self._from = self._process.stdin, self._process.stdout

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> Any:
        """The answer to one request.

        Raises:
            ChildFailed: it could not be had.
        """
        self.send(do, **arguments)
        return self.receive()

    def send(self, do: str, **arguments: Any) -> None:
        """A request whose answer is received later; a process that still owes one when it is closed is killed."""
        self._waiting = True
        try:
            print(json.dumps({"do": do, **arguments}), file=self._to, flush=True)
        except BrokenPipeError:
            raise self._died() from None

    def receive(self) -> Any:
        line = self._from.readline()
        try:
            answer = json.loads(line)
        except ValueError:
            raise self._died() from None
        self._waiting = False
        if "ok" not in answer:
            raise ChildFailed(answer["status"], self._told(answer["error"]))
        return answer["ok"]

    def close(self) -> None:
        """End the process and wait until it is gone; again is harmless."""
        if self._waiting:
            self._process.kill()
        for pipe in (self._to, self._from):
            try:
                pipe.close()
            except BrokenPipeError:
                continue
        self._process.wait()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _died(self) -> ChildFailed:
        self._waiting = False  # it is ending by itself: its own status is what to tell
        self.close()
        return ChildFailed("failed", self._told(f"the measuring process {self._cause_of_death()}"))

    def _cause_of_death(self) -> str:
        code = self._process.returncode
        if code < 0:
            name = signal.Signals(-code).name
            hint = ", possibly out of memory" if -code == signal.SIGKILL else ""
            return f"was killed by {name}{hint}"
        last = self._last_words()
        return f"ended with status {code}" + (f": {last}" if last else "")

    def _last_words(self) -> str:
        with open(self._log, "rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
        return one_line(lines[-1]) if lines else ""

    def _told(self, line: str) -> str:
        return f"{self._role}: {line}" if self._role else line


def _with_path(environment: dict[str, str]) -> dict[str, str]:
    """The program is found from whatever folder the benchmark was started in."""
    paths = [str(_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
