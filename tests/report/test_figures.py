import matplotlib
import pytest
from matplotlib.text import Annotation, Text

from tests.report import fakes
from wasi.config.declared import is_reference, method_names
from wasi.report.comparison import compare
from wasi.report.figures import PANELS, draw, figure_of
from wasi.report.groups import blocks_of
from wasi.report.load import read_runs
from wasi.report.series import series_of
from wasi.report.style import SETTINGS, styles
from wasi.report.ticks import readable_multiples

ALL = tuple(name for name in method_names() if not is_reference(name))


def figure(folder):
    (block,) = blocks_of(read_runs([folder])[0])
    with matplotlib.rc_context(SETTINGS):
        drawn = figure_of(block, compare(block))
        drawn.canvas.draw()
    return drawn


def annotations(ax):
    return [child for child in ax.get_children() if isinstance(child, Annotation)]


def test_png_and_svg_come_out_and_are_the_same_again(tmp_path):
    fakes.sweep(tmp_path, seeds=(0,), epsilons=(0.8,))
    (block,) = blocks_of(read_runs([tmp_path])[0])
    images = draw(block, compare(block), "fig5")
    assert images["png"].startswith(b"\x89PNG") and b"<svg" in images["svg"]
    assert draw(block, compare(block), "fig5") == images


def test_the_figure_is_as_wide_as_the_papers_column_and_has_the_experiments_name(tmp_path):
    fakes.sweep(tmp_path, seeds=(0, 1), names=ALL)
    (block,) = blocks_of(read_runs([tmp_path])[0])
    with matplotlib.rc_context(SETTINGS):
        drawn = figure_of(block, compare(block), "fig5_vit_cifar10")
    assert drawn.get_figwidth() == 5.5
    assert drawn.get_suptitle() == "fig5_vit_cifar10: vit_micro on digits"


def test_panels_lines_and_reference(tmp_path):
    fakes.sweep(tmp_path, seeds=(0, 1))
    drawn = figure(tmp_path)
    assert [ax.get_xlabel() for ax in drawn.axes] == [cost.axis for cost in PANELS]
    for ax in drawn.axes:
        lines = {line.get_label(): line for line in ax.lines}
        x, y = lines["wasi"].get_data()
        assert list(x) == sorted(x) and len(x) == 4  # by epsilon
        assert len(lines["vanilla"].get_xdata()) == 1
        reference = lines["vanilla"].get_ydata()[0]
        dashed = [line for line in ax.lines if list(line.get_ydata()) == [reference] * 2]
        assert len(dashed) == 1 and dashed[0].get_linestyle() == "--"
        assert [text.get_text() for text in annotations(ax)] == ["0.4", "0.6", "0.8", "0.9"] * 2
        assert ax.containers  # error bars
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == ["vanilla", "svd_llm", "wasi"]


def test_only_points_with_a_spread_have_error_bars(tmp_path):
    for seed, accuracy in enumerate((0.8, 0.9)):
        fakes.write(tmp_path, fakes.metrics(accuracy), fakes.config("wasi", 0.8, seed))
    fakes.write(tmp_path, fakes.metrics(0.7), fakes.config("wasi", 0.4))
    for ax in figure(tmp_path).axes:
        (bars,) = ax.containers
        (upright,) = bars.lines[2]
        ((low, high),) = [[y for _, y in segment] for segment in upright.get_segments()]
        assert (low + high) / 2 == pytest.approx(0.85) and (high - low) / 2 == pytest.approx(0.1 / 2**0.5)


def test_units_are_those_of_the_axis(tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config())
    x = [ax.lines[-1].get_xdata()[0] for ax in figure(tmp_path).axes]
    assert x == [400.0, 100.0, 2.0]  # MiB, ms, GFLOP


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_no_text_covers_another_or_leaves_its_panel(tmp_path, seeds):
    fakes.sweep(tmp_path, seeds=seeds, epsilons=(0.4, 0.6, 0.8, 0.9), names=ALL)
    drawn = figure(tmp_path)
    for ax in drawn.axes:
        boxes = [Text.get_window_extent(text).padded(-1) for text in annotations(ax)]
        assert len(boxes) == 4 * len(fakes.WITH_THRESHOLD)
        for place, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[place + 1 :])
            assert ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1
        ticks = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
        inside = [box for box in ticks if ax.bbox.x0 <= (box.x0 + box.x1) / 2 <= ax.bbox.x1]
        assert not any(a.overlaps(b) for a, b in zip(inside, inside[1:], strict=False))


def test_wide_ranges_are_logarithmic_narrow_ones_are_not(tmp_path):
    fakes.sweep(tmp_path / "wide", seeds=(0,))
    fakes.sweep(tmp_path / "narrow", seeds=(0,), names=("svd_llm",))
    assert {ax.get_xscale() for ax in figure(tmp_path / "wide").axes} == {"log"}
    assert {ax.get_xscale() for ax in figure(tmp_path / "narrow").axes} == {"linear"}


def test_another_option_makes_another_line(tmp_path):
    for scope in ("mlp", "all"):
        for epsilon in (0.4, 0.8):
            config = fakes.config("wasi", epsilon, options={"method.scope": scope})
            fakes.write(tmp_path, fakes.metrics(0.8, epsilon), config)
    (block,) = blocks_of(read_runs([tmp_path])[0])
    assert [(s.label, len(s.groups)) for s in series_of(block)] == [("wasi, all", 2), ("wasi, mlp", 2)]


def test_a_panel_without_measurements_is_left_out(tmp_path):
    fakes.write(tmp_path, {"val/acc": 0.8, "flops/train_step": 1e9}, fakes.config())
    assert [ax.get_xlabel() for ax in figure(tmp_path).axes] == ["Work of a training step (GFLOP)"]


def test_no_two_series_look_alike():
    series = [(method, f"{method} {variant}") for method in (*method_names(), "new") for variant in range(4)]
    looks = [(s.colour, s.marker, s.line, s.filled) for s in styles(series) if s.marker != "*"]
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize(
    ("low", "high", "multiples"), [(55, 480, (1, 2, 3, 4, 6, 8)), (2500, 36000, (1, 2, 3, 5)), (1, 1e12, (1,))]
)
def test_numbers_on_a_logarithmic_axis_have_room(low, high, multiples):
    assert readable_multiples(low, high, 223, 8) == multiples
