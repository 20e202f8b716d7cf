"""Breaks long names of rows into lines."""

import re

_PIECE = re.compile(r"[^_,=/\s]*[_,=/\s]+|[^_,=/\s]+")


def pieces(name: str) -> list[str]:
    """The name cut behind every `_`, `,`, `=`, `/` and space.

    >>> pieces("wasi_half, memory=lean")
    ['wasi_', 'half, ', 'memory=', 'lean']
    """
    return _PIECE.findall(name)


def wrapped(name: str, width: int) -> str:
    """The name in lines of at most `width` characters, broken between words. A word too long for a line is broken
    between its `pieces`, and a piece too long for a line anywhere.

    >>> wrapped("momentum=0, gradient_checkpointing=false", 18).split(chr(10))
    ['momentum=0,', 'gradient_', 'checkpointing=', 'false']
    """
    lines = [""]
    for word in name.split():
        parts = [word] if len(word) <= width else _parts(word, width)
        for index, part in enumerate(parts):
            gap = "" if index or not lines[-1] else " "
            if len(lines[-1] + gap + part) <= width:
                lines[-1] += gap + part
            else:
                lines.append(part)
    return "\n".join(filter(None, lines))


def _parts(word: str, width: int) -> list[str]:
    return [piece[start : start + width] for piece in pieces(word) for start in range(0, len(piece), width)]
