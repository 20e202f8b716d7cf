"""Where a step's time goes, looked at from outside: named callables are wrapped for a separate pass."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import wraps

Target = tuple[object, str]  # an object, class or module, and the name of a callable in it
_MISSING = object()


class Breakdown:
    """`with Breakdown({"attention": [(F, "scaled_dot_product_attention")]}) as b: step()`; then `b.ms()`.

    Time counts for the innermost label that runs, so labels never overlap; what no label covers is `rest`.
    The wrappers add about a microsecond per call: not for the pass that measures the step's time.

    Args:
        targets: label -> callables; one callable belongs to one label.
        synchronize: waits for the device; called around every wrapped call.
        read: what is shared out in place of nanoseconds: any count that only grows.
    """

    def __init__(
        self,
        targets: Mapping[str, Sequence[Target]],
        synchronize: Callable[[], object] | None = None,
        read: Callable[[], int] | None = None,
    ):
        self._targets = targets
        self._wait = synchronize or (lambda: None)
        self._read = read or time.perf_counter_ns
        self.spent = dict.fromkeys([*targets, "rest"], 0)
        self._labels: list[str] = []
        self._since = 0

    def ms(self) -> dict[str, float]:
        """Milliseconds per label and for `rest`; they sum to the time inside the block."""
        return {label: ns / 1e6 for label, ns in self.spent.items()}

    def begin(self, label: str) -> None:
        """What comes counts for `label` from now on, until `end`."""
        self._switch()
        self._labels.append(label)

    def end(self) -> None:
        """Back to the label that ran before."""
        self._switch()
        self._labels.pop()

    def called(self, label: str, arguments: object, result: object) -> None:
        """A wrapped callable has returned; for subclasses that follow what comes of it."""

    def __enter__(self) -> "Breakdown":
        with ExitStack() as stack:
            for label, targets in self._targets.items():
                for owner, name in targets:
                    stack.callback(_restore, owner, name, vars(owner).get(name, _MISSING))
                    setattr(owner, name, self._wrapped(label, owner, name))
            self._stack = stack.pop_all()
        self._wait()
        self._labels, self._since = ["rest"], self._read()
        return self

    def __exit__(self, *exception) -> None:
        self._switch()
        self._stack.close()

    def _wrapped(self, label: str, owner: object, name: str) -> Callable:
        own = vars(owner).get(name)
        original = own.__func__ if isinstance(own, staticmethod) else getattr(owner, name)

        @wraps(original)
        def call(*args, **kwargs):
            self.begin(label)
            try:
                result = original(*args, **kwargs)
            finally:
                self.end()
            self.called(label, (args, kwargs), result)
            return result

        return staticmethod(call) if isinstance(own, staticmethod) else call

    def _switch(self) -> None:
        """Book what came since the last switch to the label that was running."""
        self._wait()
        now = self._read()
        self.spent[self._labels[-1]] += now - self._since
        self._since = now


def _restore(owner: object, name: str, before: object) -> None:
    if before is _MISSING:
        delattr(owner, name)
    else:
        setattr(owner, name, before)
