"""SIGINT and SIGTERM as `Interrupted`, held back while a step is half done."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from wasi.errors import Interrupted

_depth = 0
_pending: int | None = None
_nested = 0
_arrived: int | None = None


def _handle(signum: int, frame: object) -> None:
    global _pending, _arrived
    if _nested:
        _arrived = signum
    if _depth and _pending is None:  # the first one waits for the end of the step, a second one does not
        _pending = signum
        return
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
    """SIGINT and SIGTERM raise `Interrupted` inside; the handlers before it come back afterwards.

    Any other exception that leaves the outermost of these contexts after a signal becomes `Interrupted`.
    """
    global _nested, _arrived
    before = {s: signal.signal(s, _handle) for s in (signal.SIGINT, signal.SIGTERM)}
    _nested += 1
    try:
        yield
    except Interrupted:
        raise
    except BaseException as error:
        if _nested == 1 and _arrived:
            raise Interrupted(_arrived) from error
        raise
    finally:
        _nested -= 1
        if not _nested:
            _arrived = None
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A first signal inside is delivered at the end, so that state is only ever left between two steps."""
    global _depth, _pending
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    if not _depth and _pending is not None:
        signum, _pending = _pending, None
        raise Interrupted(signum)
