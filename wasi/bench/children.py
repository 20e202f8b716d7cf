"""The parent's side of the protocol: starting measuring processes, sending them requests, reporting how they died.

Imports no torch.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wasi.errors import one_line
from wasi.runs.ending import Ending, ending_of

_ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = (sys.executable, "-m", "wasi.bench.child")


class ChildFailed(Exception):
    """A measuring process answered with an error or died. `status` is as in bench.json, the message is one line."""

    def __init__(self, status: str, line: str):
        self.status = status
        super().__init__(line)


def ending_of_job(error: BaseException) -> Ending:
    """Return how a benchmark's job ends that raised `error`: after `ChildFailed` with its status, else `ending_of`."""
    if isinstance(error, ChildFailed):
        return Ending(error.status, str(error), exit_code=1)
    return ending_of(error)


class Child:
    """One measuring process; `ask` blocks until it has answered.

    Args:
        role: prefix of its error messages, or "" for none.
        log: file that its standard error is appended to.
        environment: variables added to this process's own.
        program: command to run; this process's id is appended as its last argument.
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
                start_new_session=True,  # Ctrl-C then reaches the parent alone, which ends its children
                encoding="utf-8",
            )

        assert self._process.stdin is not None and self._process.stdout is not None  # pipes, as was asked for
        self._to, self._from = self._process.stdin, self._process.stdout

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> Any:
        """Call the method `do` of the child's `Work` with `arguments` and return its result.

        Raises:
            ChildFailed: the call failed, or the process died.
        """
        self._waiting = True  # until the answer is there, `close` kills the process
        try:
            print(json.dumps({"do": do, **arguments}), file=self._to, flush=True)
            answer = json.loads(self._from.readline())
        except (BrokenPipeError, ValueError):  # ValueError: an empty or partial line
            raise self._died() from None
        self._waiting = False
        if "ok" not in answer:
            raise ChildFailed(answer["status"], self._with_role(answer["error"]))
        return answer["ok"]

    def close(self) -> None:
        """End the process and wait for its exit; may be called more than once."""
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
        self._waiting = False  # not to be killed by `close`: its own exit status is reported
        self.close()
        return ChildFailed("failed", self._with_role(f"the measuring process {self._cause_of_death()}"))

    def _cause_of_death(self) -> str:
        code = self._process.returncode
        if code < 0:
            name = signal.Signals(-code).name
            hint = ", possibly out of memory" if -code == signal.SIGKILL else ""
            return f"was killed by {name}{hint}"
        last = self._last_log_line()
        return f"ended with status {code}" + (f": {last}" if last else "")

    def _last_log_line(self) -> str:
        with open(self._log, "rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
        return one_line(lines[-1]) if lines else ""

    def _with_role(self, line: str) -> str:
        return f"{self._role}: {line}" if self._role else line


def _with_path(environment: dict[str, str]) -> dict[str, str]:
    """Return `environment` with this package on PYTHONPATH, whatever the current folder."""
    paths = [str(_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
