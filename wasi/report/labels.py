"""Places texts beside points so that they cover neither points nor one another.

A box is an array of left, bottom, right and top, in pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_DIRECTIONS = [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)]
_GAPS = (2.0, 6.0, 11.0, 17.0, 24.0, 32.0, 42.0, 54.0)  # points between a marker's rim and its text
_LED_FROM = 11.0  # from this gap on, a thin line joins a text to its point
_PADDING = 1.0  # points around a text
_MARGIN = 2.0  # points between a text and the panel's sides
_ROUNDS = 2  # in the first, a text cannot know those that come after it
_OUTSIDE, _ON_TEXT, _ON_MARKER, _ON_LINE, _FARTHER, _NEXT = 1000.0, 100.0, 60.0, 8.0, 1.0, 0.1
_NO_POINTS = np.zeros((0, 2))


@dataclass(frozen=True)
class Label:
    """A `text` for the data point (`x`, `y`), None for a point that only must not be covered.

    `size` is the marker's diameter in points.
    """

    x: float
    y: float
    text: str | None
    colour: str
    size: float


def annotate(ax, labels: list[Label]) -> None:
    """Annotate the points of axes whose layout is fixed; each text in turn gets the nearest place that is free.

    A second round looks again for each text's place, now among all the others. A text whose line to its point would
    still cross another text is left out.
    """
    pixel = ax.figure.dpi / 72
    centres = [ax.transData.transform((label.x, label.y)) for label in labels]
    sizes = [label.size * pixel for label in labels]
    markers = [_box(centre, size) for centre, size in zip(centres, sizes, strict=True)]
    lines, frame = _line_pixels(ax), np.array(ax.bbox.extents)
    texts = {number: _annotation(ax, label) for number, label in enumerate(labels) if label.text is not None}
    placed: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # the box of a text, and its lead
    for number, text in [*texts.items()] * _ROUNDS:
        centre = centres[number]
        placed.pop(number, None)
        taken = [box for box, _ in placed.values()]
        leads = np.concatenate([_NO_POINTS, *(lead for _, lead in placed.values())])
        extent = text.get_window_extent(ax.figure.canvas.get_renderer()).padded(_PADDING * pixel)
        candidates = []
        for near, at, gap in _positions(centre, sizes[number], extent.size, pixel):
            box = _shifted_into(frame, at, _MARGIN * pixel)
            lead = _between(_middle(box), centre) if gap >= _LED_FROM else _NO_POINTS
            crossed = sum(_holds_any(other, lead) for other in taken) + _holds_any(box, leads)
            over = sum(_holds_any(marker, lead) for other, marker in enumerate(markers) if other != number)
            clash = _clash(box, frame, taken, markers, lines)
            candidates.append((near + clash + _ON_TEXT * crossed + _ON_MARKER * over, box, lead))
        _, box, lead = min(candidates, key=lambda candidate: candidate[0])
        placed[number] = box, lead
    for number, (box, lead) in list(placed.items()):
        if any(_holds_any(other, lead) for key, (other, _) in placed.items() if key != number):
            texts[number].remove()
            del placed[number]
            continue
        texts[number].set_position(((_middle(box) - centres[number]) / pixel).tolist())
        texts[number].arrow_patch.set_visible(len(lead) > 0)


def _annotation(ax, label: Label):
    lead = {"arrowstyle": "-", "color": label.colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": label.size / 2}
    text = ax.annotate(
        label.text,
        (label.x, label.y),
        (0, 0),
        textcoords="offset points",
        fontsize=7,
        color=label.colour,
        ha="center",
        va="center",
        zorder=5,
        arrowprops=lead,
    )
    text.set_in_layout(False)
    return text


def _positions(
    centre: np.ndarray, marker: float, size: np.ndarray, pixel: float
) -> Iterator[tuple[float, np.ndarray, float]]:
    """Penalty, box and gap in points of every place for a text, near places first.

    Args:
        marker, size: the marker's diameter, and the text's width and height, in pixels.
    """
    for ring, gap in enumerate(_GAPS):
        for order, direction in enumerate(_DIRECTIONS):
            reach = marker / 2 + np.array([1.0, 0.6]) * gap * pixel + size / 2
            reach = 0.8 * reach if all(direction) else reach
            yield ring * _FARTHER + order * _NEXT, _box(centre + direction * reach, size), gap


def _clash(
    box: np.ndarray, frame: np.ndarray, taken: list[np.ndarray], markers: list[np.ndarray], lines: np.ndarray
) -> float:
    outside = (box[:2] < frame[:2]).any() or (box[2:] > frame[2:]).any()
    on_texts, on_markers = _overlap(box, taken), _overlap(box, markers)
    return _OUTSIDE * outside + _ON_TEXT * on_texts + _ON_MARKER * on_markers + _ON_LINE * _holds_any(box, lines)


def _box(centre: np.ndarray, size: float | np.ndarray) -> np.ndarray:
    """The box of a size (one for both sides, or width and height) around a centre."""
    return np.concatenate([centre - size / 2, centre + size / 2])


def _middle(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2


def _shifted_into(frame: np.ndarray, box: np.ndarray, margin: float) -> np.ndarray:
    """The box, moved sideways until it is inside the frame with that margin left and right."""
    right = max(frame[0] + margin - box[0], 0.0) + min(frame[2] - margin - box[2], 0.0)
    return box + np.array([right, 0, right, 0])


def _overlap(box: np.ndarray, others: list[np.ndarray]) -> float:
    """The sum over the other boxes that touch this one of 1 plus the share of this one that they cover."""
    corners = np.reshape(others, (-1, 4))
    sides = np.minimum(box[2:], corners[:, 2:]) - np.maximum(box[:2], corners[:, :2])
    shares = sides.prod(axis=1) / (box[2:] - box[:2]).prod()
    return sum(1 + shares[(sides > 0).all(axis=1)])


def _holds_any(box: np.ndarray, points: np.ndarray) -> bool:
    """Whether any of the points (P x 2) is inside the box."""
    x, y = points.T
    return bool(((x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])).any())


def _between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Points (P x 2) on the way from one to the other, some 4 pixels apart."""
    steps = np.linspace(0, 1, 2 + int(np.hypot(*(end - start)) / 4))
    return start + (end - start) * steps[:, None]


def _line_pixels(ax) -> np.ndarray:
    """Points (P x 2) along every line and error bar of the axes, so close that no text slips between two."""
    paths = [line.get_xydata() for line in ax.lines if line.get_transform() == ax.transData]
    paths += [segment for bars in ax.collections for segment in bars.get_segments()]
    found: list[np.ndarray] = [_NO_POINTS]
    for path in paths:
        ends = ax.transData.transform(np.asarray(path, dtype=float))
        for start, end in zip(ends[:-1], ends[1:], strict=True):
            found.append(_between(start, end))
    for line in ax.lines:  # lines across the whole panel, at one height
        if line.get_transform() != ax.transData:
            x = np.arange(ax.bbox.x0, ax.bbox.x1, 4)
            y = ax.transData.transform((ax.get_xlim()[0], line.get_ydata()[0]))[1]
            found.append(np.column_stack([x, np.full_like(x, y)]))
    return np.concatenate(found)
