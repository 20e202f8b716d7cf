"""The parts of memory and time have one palette, in W&B's images and on the page, unlike the methods' colours."""

import pytest

from tests.report import fakes
from wasi.config.declared import appearance, method_names
from wasi.report.blocks import blocks_of
from wasi.report.load import read_runs
from wasi.report.page import parts
from wasi.report.page_rows import rows_of
from wasi.report.style import _OTHERS
from wasi.tracking import categories, pictures
from wasi.tracking.categories import ACCOUNTING, MEMORY, TIME, memory_metric, time_metric, time_parts

METRICS = {memory_metric(part): 1.0 for part in MEMORY} | {"memory/paper_train_mib": 1.0}
PROFILED = {time_metric(part): 1.0 for part in TIME if part != "subspace"}


def lab(colour: str) -> tuple[float, float, float]:
    """Lightness, green to red and blue to yellow of sRGB `#RRGGBB` (CIELAB, D65)."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    x, y, z = (
        cell ** (1 / 3) if cell > 0.008856 else 7.787 * cell + 16 / 116
        for cell in (
            (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047,
            0.2126 * r + 0.7152 * g + 0.0722 * b,
            (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883,
        )
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def far(one: str, other: str) -> float:
    return sum((a - b) ** 2 for a, b in zip(lab(one), lab(other), strict=True)) ** 0.5


def test_no_category_looks_like_a_method():
    looks = {name: look.colour for name in method_names() if (look := appearance(name))}
    looks |= {f"method {place} that declares nothing": colour for place, (colour, _) in enumerate(_OTHERS)}
    for of in (*MEMORY.values(), ACCOUNTING, *TIME.values()):
        near = {name: far(of.colour, colour) for name, colour in looks.items() if far(of.colour, colour) < 20}
        assert len(looks) > 5 and near == {}, of.label


def colours_of(figure) -> dict[str, list[str]]:
    """The colours of each bar of a figure, from left to right."""
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    found: dict[str, list[str]] = {name: [] for name in names}
    for patch in axes.patches:
        name = names[round(patch.get_y() + patch.get_height() / 2)]
        found[name].append("#" + "".join(f"{round(255 * channel):02X}" for channel in patch.get_facecolor()[:3]))
    return found


def test_images_and_page_have_the_same_colours(tmp_path):
    memory = [of.colour for of in MEMORY.values()]
    assert colours_of(pictures._memory(METRICS)) == {"whole step": memory, ACCOUNTING.label: [ACCOUNTING.colour]}
    time = [of.colour for part, of in TIME.items() if part != "subspace"]
    assert colours_of(pictures._time(PROFILED, False)) == {"step": time}
    fakes.write(tmp_path, {"test/acc": 0.9, **METRICS, **PROFILED}, fakes.config("wasi", 0.8))
    (block,) = blocks_of(read_runs([tmp_path])[0])
    drawn = parts.memory(rows_of(block, 0)), parts.time(rows_of(block, 0))
    for section, colours in zip(drawn, ([*memory, ACCOUNTING.colour], time), strict=True):
        assert [key.colour for key in section.legend] == colours


@pytest.mark.parametrize(
    ("metrics", "is_compiled", "found"),
    [
        ({**PROFILED, "time/train_step_ms_p50": 9.0}, False, dict.fromkeys(list(TIME)[1:], 1.0)),
        ({"time/train_step_ms_p50": 9.0, "time/subspace_ms_p50": 2.0}, False, {"subspace": 2.0, "rest": 7.0}),
        ({"time/train_step_ms_p50": 9.0}, False, {"rest": 9.0}),
        ({"time/train_step_ms_p50": 9.0}, True, {}),
        ({"time/train_step_ms_p50": 1.0, "time/subspace_ms_p50": 2.0}, False, {}),
        ({}, False, {}),
    ],
)
def test_a_step_is_divided_as_it_was_measured(metrics, is_compiled, found):
    assert time_parts(metrics.get, is_compiled) == found


def test_a_time_of_one_part_has_no_image():
    images = pictures.pictures({"metrics": {"time/train_step_ms_p50": 9.0}, "layers": []})
    assert images == {} and categories.memory_parts({}.get) == {}
