"""Splits the words of a command line by which Hydra's configuration is overridden."""

from collections.abc import Sequence


def option_and_value(word: str) -> tuple[str, str]:
    """Return the option and the value of `OPTION=VALUE`, also of `+OPTION=VALUE`; without a `=` the value is empty.

    >>> option_and_value("++rank.keep_ratio=0.5")
    ('rank.keep_ratio', '0.5')
    """
    option, _, value = word.lstrip("+").partition("=")
    return option, value


def given_value(option: str, words: Sequence[str]) -> str | None:
    """Return the value, as written, that the words give the option: of several the last, which counts. None if none.

    >>> given_value("seed", ["seed=1", "+seed=2"])
    '2'
    """
    return dict(map(option_and_value, words)).get(option)
