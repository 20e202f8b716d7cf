"""What `train.measure` asks for."""

LEVELS = ("none", "fast", "full")  # each measures what the one before it does, and more


def measure_level(value: bool | str) -> str:
    """One of `LEVELS`: `true` is `full`, `false` is `none`.

    >>> measure_level(True), measure_level("fast")
    ('full', 'fast')
    """
    return value if isinstance(value, str) else LEVELS[-1] if value else LEVELS[0]
