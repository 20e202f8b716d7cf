"""SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 raise `Interrupted`, but never in the middle of a training step.

By the last two a scheduler announces that it will stop a job: `sbatch --signal=USR1@120`, and submitit's USR2. SIGHUP
arrives when a terminal is closed or a connection to it is lost; `nohup` has it ignored, and it stays ignored then.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from wasi.errors import Interrupted

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PREEMPTING = (signal.SIGUSR1, signal.SIGUSR2)
_depth = 0  # of nested `uninterrupted` blocks
_pending: int | None = None  # the signal that arrived inside `uninterrupted`, see `pending`
_nested = 0  # depth of nested `interruptible` blocks
_arrived: int | None = None  # see `arrived`


def _handle(signum: int, frame: object) -> None:
    """Raise `Interrupted`; inside `uninterrupted` only at a second SIGINT or SIGTERM, as the first waits for its end.

    A scheduler sends several kinds at once (SIGCONT, SIGTERM, SIGUSR1), which must not count as a second request, so
    beside SIGUSR1 or SIGUSR2 the others wait too. Of several signals one of these two is kept, as its handler queues
    the job again. Beside SIGHUP they wait as well: for a closed terminal, the system, the shell and a launcher each
    send it or another signal.
    """
    global _pending, _arrived
    if signum == signal.SIGHUP and _arrived is not None:
        return
    if _nested and (_arrived is None or signum in _PREEMPTING):
        _arrived = signum
    if not _depth:
        raise Interrupted(signum)
    if _pending is None or signum in _PREEMPTING:
        _pending = signum
    elif _pending not in (*_PREEMPTING, signal.SIGHUP):
        _pending = None  # the exception raised here stands for both
        raise Interrupted(signum)


def stopping() -> tuple[int, ...]:
    """Return the signals that stop a command: SIGINT, SIGTERM and, unless it is ignored as under `nohup`, SIGHUP."""
    return tuple(n for n in _STOPPING if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN)


def pending() -> int | None:
    """Return the signal that waits for the end of `uninterrupted`; None if there is none.

    It may also be an earlier one whose exception was lost, see `arrived`.
    """
    return _arrived if _pending is None else _pending


def hold(signum: int) -> None:
    """Act as if this signal, unless it is 0, had arrived inside `uninterrupted`: another process has received it."""
    global _pending
    if signum and _depth and _pending is None:
        _pending = signum


def arrived() -> int | None:
    """Return the signal that arrived inside `interruptible`, even if its exception was lost.

    The exception is raised wherever the interpreter happens to be. In a destructor it is printed and dropped; a library
    that catches everything may raise another in its place, and so does Python up to 3.11 in `__set_name__`, where it
    makes a RuntimeError of it (an enumeration that is made during an import).
    """
    return _arrived


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the signals raise `Interrupted` inside the block, at the latest at the end of the next step.

    Afterwards the previous handlers are restored. Any other exception that leaves the outermost of these blocks after a
    signal becomes `Interrupted`. If a handler for the scheduler's signal was installed before (submitit's, which queues
    the job again and ends the process), it is called once everything inside has come to its end.
    """
    global _nested, _arrived
    before = {int(n): signal.signal(n, _handle) for n in (*stopping(), *_PREEMPTING)}
    _nested += 1
    try:
        try:
            yield
        except Interrupted:
            raise
        except BaseException as error:
            if _nested == 1 and _arrived:
                raise Interrupted(_arrived) from error
            raise
    except Interrupted as stop:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        others = before.get(stop.signum)  # none if another process of the run received what is ignored here
        if stop.signum in _PREEMPTING and callable(others) and others is not _handle:
            others(stop.signum, None)
        raise
    finally:
        _nested -= 1
        if not _nested:
            _arrived = None
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Deliver the signal that is `pending` at the end of the block, so that a training step is never left half done."""
    global _depth, _pending
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    signum = pending()
    if not _depth and signum is not None:
        _pending = None
        raise Interrupted(signum)
