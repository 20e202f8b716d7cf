"""The three exceptions by which a run ends early on purpose, and the text of any exception in one line."""

NOTHING = ...  # for an option named without a value; Ellipsis stays the same object when pickled


class UserError(Exception):
    """A user's mistake, reported in one line: the option, what was given, what is allowed.

    Args:
        given: the option's value; `NOTHING` if it was named without one.
        allowed: completes the sentence "allowed is …".
        fault: the concrete defect, which then comes first in the message.

    >>> str(UserError("rank.weight_epsilon", 1.5, "a number in (0, 1]"))
    'rank.weight_epsilon=1.5: allowed is a number in (0, 1]'
    >>> str(UserError("dataset.root", "photos", "a folder of images", "photos/cat/1.jpg is cut short"))
    'photos/cat/1.jpg is cut short (dataset.root=photos: allowed is a folder of images)'
    >>> str(UserError("train.epochs", None, "a whole number from 1 up"))
    'train.epochs=null: allowed is a whole number from 1 up'
    >>> str(UserError("~seed", NOTHING, "only what a run does without"))
    '~seed: allowed is only what a run does without'
    """

    def __init__(self, option: str, given: object, allowed: str, fault: str | None = None):
        self.option, self.given, self.allowed, self.fault = option, given, allowed, fault
        super().__init__(option, given, allowed, fault)

    def __str__(self) -> str:
        asked = self.option if self.given is NOTHING else f"{self.option}={as_written(self.given)}"
        text = f"{asked}: allowed is {self.allowed}"
        return text if self.fault is None else f"{self.fault} ({text})"


def as_written(value: object) -> str:
    """Return a value as on the command line: `null`, `true` and `false` for None, True and False."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


class Diverged(Exception):
    """Training met a loss or gradient that is not finite."""


class Interrupted(BaseException):
    """SIGINT, SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2 arrived; `signum` tells which.

    It is not an `Exception`, so that code that catches all of these does not swallow it.
    """

    def __init__(self, signum: int):
        self.signum = signum
        super().__init__(signum)


def one_line(text: object) -> str:
    """Return a text, or an exception's, with a single space in the place of line breaks and other white space."""
    return " ".join(str(text).split())


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, or the name of its type if it has no text.

    >>> first_line(ValueError("no such key\\n  in the file")), first_line(KeyError())
    ('no such key', 'KeyError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def type_and_text(error: BaseException) -> str:
    """Return the type and the whole text of an exception in one line.

    >>> type_and_text(ValueError("no such key\\n  in the file"))
    'ValueError: no such key in the file'
    """
    return one_line(f"{type(error).__name__}: {error}")
