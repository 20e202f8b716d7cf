from pathlib import Path

import matplotlib
import pytest
from matplotlib.text import Annotation, Text

from tests.report import fakes
from wasi.config.declared import is_reference, method_names
from wasi.report.blocks import blocks_of
from wasi.report.columns import PEAK, STEP
from wasi.report.comparison import Comparison
from wasi.report.figures import PANELS, _caption, draw, figure_of
from wasi.report.load import read_runs
from wasi.report.page import accuracy, thresholds
from wasi.report.page_rows import rows_of
from wasi.report.ranking import cost_axis
from wasi.report.series import references, series_of
from wasi.report.style import SETTINGS, styles
from wasi.report.ticks import readable_multiples

ROOT = Path(__file__).resolve().parents[2]
ALL = tuple(name for name in method_names() if not is_reference(name))


def figure(folder):
    (block,) = blocks_of(read_runs([folder])[0])
    with matplotlib.rc_context(SETTINGS):
        drawn = figure_of(block)
        drawn.canvas.draw()
    return drawn


def annotations(ax):
    return [child for child in ax.get_children() if isinstance(child, Annotation)]


def test_png_and_svg_come_out_and_are_the_same_again(tmp_path):
    fakes.sweep(tmp_path, seeds=(0,), epsilons=(0.8,))
    (block,) = blocks_of(read_runs([tmp_path])[0])
    images = draw(block, "fig5")
    assert images["png"].startswith(b"\x89PNG") and b"<svg" in images["svg"]
    assert draw(block, "fig5") == images


def test_the_figure_is_as_wide_as_the_papers_column_and_has_the_experiments_name(tmp_path):
    fakes.sweep(tmp_path, seeds=(0, 1), names=ALL)
    (block,) = blocks_of(read_runs([tmp_path])[0])
    with matplotlib.rc_context(SETTINGS):
        drawn = figure_of(block, "fig5_vit_cifar10")
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
    for seed, value in enumerate((0.8, 0.9)):
        fakes.write(tmp_path, fakes.metrics(value), fakes.config("wasi", 0.8, seed))
    fakes.write(tmp_path, fakes.metrics(0.7), fakes.config("wasi", 0.4))
    for ax in figure(tmp_path).axes:
        (bars,) = ax.containers
        (upright,) = bars.lines[2]
        ((low, high),) = [[y for _, y in segment] for segment in upright.get_segments()]
        assert (low + high) / 2 == pytest.approx(0.85) and (high - low) / 2 == pytest.approx(0.1 / 2**0.5)


@pytest.mark.parametrize("all_in_turns", [True, False])
def test_times_measured_in_turns_are_drawn_relative_to_the_baselines(tmp_path, monkeypatch, all_in_turns):
    """In static and interactive figures alike; in milliseconds unless every row was measured so."""
    for name, ms in (("vanilla", 100), ("wasi", 60), ("lora", 50)):
        for epsilon in (0.6, 0.8) if name == "wasi" else (None,):
            fakes.write(tmp_path, fakes.metrics(0.9, **{STEP.metric: ms}), fakes.config(name, epsilon))
    ratios = {"wasi": {"p50": 2.0}} | ({"lora": {"p50": 4.0}} if all_in_turns else {})
    monkeypatch.setattr(
        Comparison, "in_turns", lambda self, cost: ratios.get(self.group.method) if cost is STEP else None
    )
    title = "Time of a training step (vanilla = 1)" if all_in_turns else STEP.axis
    expected = [1.0, 0.25, 0.5, 0.5] if all_in_turns else [100.0, 50.0, 60.0, 60.0]

    peak, step, _ = figure(tmp_path).axes
    assert step.get_xlabel() == title and peak.get_xlabel() == PEAK.axis
    drawn = [x for line in step.lines if line.get_label() in ("vanilla", *ALL) for x in line.get_xdata()]
    assert sorted(drawn) == sorted(expected)

    (block,) = blocks_of(read_runs([tmp_path])[0])
    rows = rows_of(block, 0)
    (interactive,) = [one for one in accuracy.section(rows).figures if one.title == title]
    assert sorted(value["x"] for value in interactive.spec["data"]["values"]) == sorted(expected)
    against = thresholds.time(rows).figures[0]
    assert against.title == title
    assert sorted(value["y"] for value in against.spec["data"]["values"]) == sorted(expected)


def test_a_time_with_none_to_compare_it_with_is_in_milliseconds(tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config())
    untimed = {name: value for name, value in fakes.metrics(0.7).items() if not name.startswith("time/")}
    fakes.write(tmp_path, untimed, fakes.config("wasi", 0.8))
    (block,) = blocks_of(read_runs([tmp_path])[0])
    axis = cost_axis(STEP, comparisons := block.comparisons)
    assert (axis.title, [axis.value(one) for one in comparisons]) == (STEP.axis, [100.0, None])


def test_units_are_those_of_the_axis(tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config())
    x = [ax.lines[-1].get_xdata()[0] for ax in figure(tmp_path).axes]
    assert x == [400.0, 100.0, 2.0]  # MiB, ms, GFLOP


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_no_text_covers_another_or_leaves_its_panel(tmp_path, seeds):
    # as many as have room
    names = ("svd_llm", "wasi", "wsi", "asi", "lora", "peft", "linear_probe", "bitfit", "freeze_first")
    fakes.sweep(tmp_path, seeds=seeds, epsilons=(0.4, 0.6, 0.8, 0.9), names=names)
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


def test_no_thin_line_to_a_text_crosses_another_text():
    """Of the kept results: a long text at the panel's side, beside another point's."""
    (block,) = blocks_of(read_runs([ROOT / "results" / "pareto"])[0])
    with matplotlib.rc_context(SETTINGS):
        drawn = figure_of(block)
        drawn.canvas.draw()
    for ax in drawn.axes:
        texts = annotations(ax)
        assert any(text.get_text().startswith("keep") for text in texts)
        for led in (text for text in texts if text.arrow_patch.get_visible()):
            line = led.arrow_patch.get_path().interpolated(50).vertices
            others = [Text.get_window_extent(text) for text in texts if text is not led]
            assert not any(box.contains(*point) for box in others for point in line)
    assert "keep: share of a weight's parameters" in drawn.axes[0].get_title(loc="left").replace("\n", " ")


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


def test_a_legend_of_many_long_names_lies_inside_the_figure(tmp_path):
    for place in range(12):
        weights = "dinov2_on_" + "many_images_" * 12 + f"{place}.safetensors"
        options = {"optimizer.momentum": 0.1 + 0.01 * place, "train.memory": "lean", "model.weights": weights}
        fakes.write(tmp_path, fakes.metrics(0.8), fakes.config("wasi", 0.8, options=options))
    drawn = figure(tmp_path)
    (legend,) = drawn.legends
    box = legend.get_window_extent()
    assert len(legend.get_texts()) == 12
    assert drawn.bbox.x0 <= box.x0 and box.x1 <= drawn.bbox.x1 and drawn.bbox.y0 <= box.y0
    assert box.y1 <= min(ax.get_tightbbox().y0 for ax in drawn.axes)
    assert drawn.axes[0].bbox.height > 0.4 * drawn.axes[0].bbox.width  # panels keep their room


def test_a_legend_has_recipes_and_only_those_with_a_point(tmp_path):
    rows = {"vanilla": "vanilla", "vanilla_lean": "vanilla", "wasi_half": "wasi", "wasi_half_lean": "wasi"}
    for recipe, method in rows.items():
        lean = recipe.endswith("_lean")
        config = fakes.config(method, 0.8, options={"train.memory": "lean" if lean else "plain"}) | {"recipe": recipe}
        fakes.write(tmp_path, fakes.metrics(0.8, **({"val/acc": None} if lean else {})), config)
    drawn = figure(tmp_path)
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["vanilla", "wasi_half"]


def test_only_vanillas_that_another_row_is_compared_with_have_a_line(tmp_path):
    for lr in (0.05, 0.1, 0.2):
        fakes.write(tmp_path, fakes.metrics(0.9 + lr / 10), fakes.config(options={"optimizer.lr": lr}))
    (block,) = blocks_of(read_runs([tmp_path])[0])
    assert references(block.comparisons) == block.groups[:1]  # vanillas alone: the first

    fakes.write(tmp_path, fakes.metrics(0.8, 0.5), fakes.config("wasi", 0.8, options={"optimizer.lr": 0.1}))
    panel = figure(tmp_path).axes[0]
    levels = [line.get_ydata()[0] for line in panel.lines if line.get_transform() != panel.transData]
    assert levels == [pytest.approx(0.92)]  # the most accurate one


def test_nine_variants_of_every_method_differ_in_their_markers_alone():
    looks = styles([method for method in (*method_names(), "new") for _ in range(9)])
    assert len({(look.colour, look.marker, look.fill) for look in looks}) == len(looks)
    drawn = [{k: v for k, v in look.marks().items() if k.startswith("marker")} for look in looks]
    assert len({tuple(marks.items()) for marks in drawn}) == len(looks)


def test_a_half_tone_is_half_way_between_the_colour_and_white():
    filled, hollow, half = styles(["wasi"] * 3)
    assert {look.colour for look in (filled, hollow, half)} == {"#0072B2"}
    assert [look.fill for look in (filled, hollow, half)] == [1, 0, 0.5]
    assert hollow.marks()["markerfacecolor"] == "#FFFFFF" and half.marks()["markerfacecolor"] == "#80B8D8"


@pytest.mark.parametrize(
    ("low", "high", "multiples"), [(55, 480, (1, 2, 3, 4, 6, 8)), (2500, 36000, (1, 2, 3, 5)), (1, 1e12, (1,))]
)
def test_numbers_on_a_logarithmic_axis_have_room(low, high, multiples):
    assert readable_multiples(low, high, 223, 8) == multiples


def test_the_caption_counts_the_seeds_of_rows_that_are_drawn(tmp_path):
    """A benchmark without an accuracy is no run and has no point."""
    for seed in range(2):
        for name, epsilon in (("vanilla", None), ("wasi", 0.8)):
            fakes.write(tmp_path, fakes.metrics(0.8), fakes.config(name, epsilon, seed))
    fakes.write(tmp_path, fakes.metrics(0.8, **{"val/acc": None}), fakes.config("wasi", 0.4))
    (block,) = blocks_of(read_runs([tmp_path])[0])
    assert _caption(block).endswith("over 2 seeds; dashed: vanilla")


def test_the_caption_has_no_line_that_is_not_drawn(tmp_path):
    """A vanilla that was only benchmarked has no accuracy."""
    fakes.write(tmp_path, fakes.metrics(0.8, **{"val/acc": None}), fakes.config())
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config("wasi", 0.8))
    (block,) = blocks_of(read_runs([tmp_path])[0])
    assert _caption(block) == "points are labelled with epsilon"
