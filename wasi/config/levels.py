"""The levels of `train.measure`."""

LEVELS = ("none", "fast", "full")  # each measures what the one before it does, and more


def measure_level(value: bool | str) -> str:
    """Return the level that a value of `train.measure` means: `true` is `full`, `false` is `none`.

    >>> measure_level(True), measure_level("fast")
    ('full', 'fast')
    """
    return value if isinstance(value, str) else LEVELS[-1] if value else LEVELS[0]
