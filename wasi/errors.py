"""The three ways a run ends early on purpose."""


class UserError(Exception):
    """A user's mistake, told in one line: the option, what was given, what is allowed.

    >>> str(UserError("rank.weight_epsilon", 1.5, "a number in (0, 1]"))
    'rank.weight_epsilon=1.5: allowed is a number in (0, 1]'
    """

    def __init__(self, option: str, given: object, allowed: str):
        self.option, self.given, self.allowed = option, given, allowed
        super().__init__(option, given, allowed)

    def __str__(self) -> str:
        return f"{self.option}={self.given}: allowed is {self.allowed}"


class Diverged(Exception):
    """Training met a loss or gradient that is not finite."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived; `signum` tells which. Not an `Exception`, so nothing swallows it."""

    def __init__(self, signum: int):
        self.signum = signum
        super().__init__(signum)
