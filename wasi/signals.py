"""SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 as `Interrupted`, held back while a step is half done.

The last two are how a scheduler tells a job that it will be stopped: `sbatch --signal=USR1@120`, submitit's USR2.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from wasi.errors import Interrupted

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_PREEMPTING = (signal.SIGUSR1, signal.SIGUSR2)
_depth = 0
_pending: int | None = None
_nested = 0
_arrived: int | None = None


def _handle(signum: int, frame: object) -> None:
    """The first one waits for the end of the step; a second SIGINT or SIGTERM does not.

    A scheduler sends several kinds at once (SIGCONT, SIGTERM, SIGUSR1), which is no impatience; the one by which the
    job is queued again is kept.
    """
    global _pending, _arrived
    if _nested and (_arrived is None or signum in _PREEMPTING):
        _arrived = signum
    if not _depth:
        raise Interrupted(signum)
    if _pending is None or signum in _PREEMPTING:
        _pending = signum
    elif _pending not in _PREEMPTING:
        _pending = None  # this one speaks for both
        raise Interrupted(signum)


def pending() -> int | None:
    """The signal that waits for the end of `uninterrupted`."""
    return _pending


def hold(signum: int) -> None:
    """As if this signal, unless it is 0, had come inside `uninterrupted`: another process has seen it."""
    global _pending
    if signum and _depth and _pending is None:
        _pending = signum


def arrived() -> int | None:
    """The signal that arrived inside `interruptible`, whatever has become of its exception.

    It comes up wherever the interpreter happens to be. In a destructor it is printed and gone; a library that catches
    everything may raise another in its place, and so does Python up to 3.11 in `__set_name__`, where it makes a
    RuntimeError of it (an enumeration that is made during an import).
    """
    return _arrived


@contextmanager
def interruptible() -> Iterator[None]:
    """The signals raise `Interrupted` inside, at the latest at the end of the next step; afterwards the handlers before
    it come back.

    Any other exception that leaves the outermost of these contexts after a signal becomes `Interrupted`. A handler for
    the scheduler's signal that somebody else installed (submitit's, which queues the job again and ends the process) is
    called once everything inside has come to its end.
    """
    global _nested, _arrived
    before = {int(signum): signal.signal(signum, _handle) for signum in (*_STOPPING, *_PREEMPTING)}
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
        others = before[stop.signum]
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
    """A first signal inside is delivered at the end, so that state is only ever left between two steps.

    So is one from before whose exception was lost: Python drops what is raised while a finalizer runs, such as a
    loader's.
    """
    global _depth, _pending
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    signum = _arrived if _pending is None else _pending
    if not _depth and signum is not None:
        _pending = None
        raise Interrupted(signum)
