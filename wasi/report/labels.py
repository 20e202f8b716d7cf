"""Places texts beside points so that they cover neither points nor one another."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_DIRECTIONS = [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)]
_GAPS = (2.0, 6.0, 11.0, 17.0, 24.0, 32.0, 42.0, 54.0)  # points between a marker's rim and its text
_LED_FROM = 11.0  # from this gap on, a thin line joins a text to its point
_PADDING = 1.0  # points around a text
_MARGIN = 2.0  # points between a text and the panel's sides
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


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> "Box":
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    @property
    def middle(self) -> np.ndarray:
        return np.array([self.x0 + self.x1, self.y0 + self.y1]) / 2

    def overlap(self, other: "Box") -> float:
        """0 for boxes that do not touch, else 1 plus the share of this box that the other covers."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        if width <= 0 or height <= 0:
            return 0.0
        return 1.0 + width * height / ((self.x1 - self.x0) * (self.y1 - self.y0))

    def within(self, other: "Box") -> bool:
        return self.x0 >= other.x0 and self.x1 <= other.x1 and self.y0 >= other.y0 and self.y1 <= other.y1

    def shifted_into(self, other: "Box", margin: float) -> "Box":
        """This box, moved sideways until it is inside the other with that margin left and right."""
        right = max(other.x0 + margin - self.x0, 0.0) + min(other.x1 - margin - self.x1, 0.0)
        return Box(self.x0 + right, self.y0, self.x1 + right, self.y1)

    def holds_any(self, points: np.ndarray) -> bool:
        """Whether any of the points (P x 2) is inside."""
        x, y = points.T
        return bool(((x > self.x0) & (x < self.x1) & (y > self.y0) & (y < self.y1)).any())


def annotate(ax, labels: list[Label]) -> list:
    """Annotate the points of axes whose layout is fixed; each text in turn gets the nearest place that is free.

    Returns:
        The annotations.
    """
    pixel = ax.figure.dpi / 72
    centres = [ax.transData.transform((label.x, label.y)) for label in labels]
    sizes = [label.size * pixel for label in labels]
    markers = [Box.around(x, y, size, size) for (x, y), size in zip(centres, sizes, strict=True)]
    lines, frame = _line_pixels(ax), Box(*ax.bbox.extents)
    taken: list[Box] = []
    leads = _NO_POINTS  # of the texts placed so far
    placed = []
    for label, centre, size in zip(labels, centres, sizes, strict=True):
        if label.text is None:
            continue
        text = _annotation(ax, label)
        extent = text.get_window_extent(ax.figure.canvas.get_renderer()).padded(_PADDING * pixel)
        candidates = []
        for near, at, gap in _positions(centre, size, extent.width, extent.height, pixel):
            box = at.shifted_into(frame, _MARGIN * pixel)
            lead = _between(box.middle, centre) if gap >= _LED_FROM else _NO_POINTS
            crossed = sum(other.holds_any(lead) for other in taken) + box.holds_any(leads)
            clash = _clash(box, frame, taken, markers, lines)
            candidates.append((near + clash + _ON_TEXT * crossed, box, lead))
        _, box, lead = min(candidates, key=lambda candidate: candidate[0])
        text.set_position(((box.middle - centre) / pixel).tolist())
        text.arrow_patch.set_visible(len(lead) > 0)
        taken.append(box)
        leads = np.concatenate([leads, lead])
        placed.append(text)
    return placed


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
    centre: np.ndarray, marker: float, width: float, height: float, pixel: float
) -> Iterator[tuple[float, Box, float]]:
    """Penalty, box in pixels and gap in points of every place for a text, near places first."""
    for ring, gap in enumerate(_GAPS):
        for order, (dx, dy) in enumerate(_DIRECTIONS):
            reach_x = marker / 2 + gap * pixel + width / 2
            reach_y = marker / 2 + 0.6 * gap * pixel + height / 2
            if dx and dy:
                reach_x, reach_y = 0.8 * reach_x, 0.8 * reach_y
            box = Box.around(centre[0] + dx * reach_x, centre[1] + dy * reach_y, width, height)
            yield ring * _FARTHER + order * _NEXT, box, gap


def _clash(box: Box, frame: Box, taken: list[Box], markers: list[Box], lines: np.ndarray) -> float:
    on_texts, on_markers = (sum(map(box.overlap, others)) for others in (taken, markers))
    on_line, outside = box.holds_any(lines), not box.within(frame)
    return _OUTSIDE * outside + _ON_TEXT * on_texts + _ON_MARKER * on_markers + _ON_LINE * on_line


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
