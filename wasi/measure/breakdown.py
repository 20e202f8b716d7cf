"""Breakdown of a step's time by parts, by wrapping named callables for a separate pass."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import wraps

Target = tuple[object, str]  # an object, class or module, and the name of a callable in it
_MISSING = object()


class Breakdown:
    """A context manager that attributes the time within it to labels of wrapped callables.

        with Breakdown({"attention": [(F, "scaled_dot_product_attention")]}) as breakdown:
            step()
        breakdown.ms()

    Time is attributed to the innermost label, so labels never overlap; what no label covers is `rest`. The wrappers add
    about a microsecond per call, so the time of the step itself is to be measured in another pass. `spent` holds the
    result by label, in nanoseconds or units of `read`.

    Args:
        targets: label -> callables to wrap; a callable belongs to one label.
        synchronize: waits for the device; called before and after every wrapped call.
        read: a non-decreasing counter to attribute in place of nanoseconds, such as of FLOPs.
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
        """Return the milliseconds per label and for `rest`; their sum is the time within the context."""
        return {label: ns / 1e6 for label, ns in self.spent.items()}

    def begin(self, label: str) -> None:
        """Attribute what follows to `label`, until `end`."""
        self._switch()
        self._labels.append(label)

    def end(self) -> None:
        """Attribute what follows to the label before the last `begin`."""
        self._switch()
        self._labels.pop()

    def called(self, label: str, arguments: object, result: object) -> None:
        """Called when a wrapped callable has returned; does nothing here, subclasses may use it."""

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
        """Attribute what was spent since the last switch to the current label."""
        self._wait()
        now = self._read()
        self.spent[self._labels[-1]] += now - self._since
        self._since = now


def _restore(owner: object, name: str, before: object) -> None:
    if before is _MISSING:
        delattr(owner, name)
    else:
        setattr(owner, name, before)
