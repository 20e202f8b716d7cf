import copy
import json
import re
import sys

import pytest

from tests.bench import jobs
from tests.report import fakes
from wasi.config.rank_thresholds import threshold
from wasi.report import options
from wasi.report.blocks import blocks_of
from wasi.report.columns import STEP
from wasi.report.figures import figure_of
from wasi.report.gathered import gather
from wasi.report.load import read_runs
from wasi.report.page import accuracy, epochs, parts, ranks, render, thresholds
from wasi.report.page.cells import columns
from wasi.report.page_rows import rows_of
from wasi.report.write import write_page, write_report
from wasi.results.collect import collect

LAYERS = [
    {"name": f"blocks.{block}.mlp.fc{place}", "in_features": 96, "out_features": 384, "weight_rank": 24 + block,
     "activation_ranks": [64, 9, 12]}
    for block in range(2) for place in (1, 2)
]  # fmt: skip
HISTORY = [{"epoch": epoch, "train/loss": 2 / epoch, "val/loss": 1.0, "val/acc": 0.5} for epoch in (1, 2, 3)]
MONITOR = """epoch,step,layer,call,weight_rank,rank_at_threshold,angle_mean_deg,tucker_error,mode3_variance
0,0,blocks.0.mlp.fc1,0,24,20,0.0,0.2,0.8
1,9,blocks.0.mlp.fc1,0,24,22,3.5,0.3,0.7
"""
PARTS = {"weights": 0.3, "gradients": 0.1, "optimizer": 0.1, "activations": 0.4, "temporary": 0.1}


def rich(folder, accuracy=0.8, name="wasi", epsilon=0.8, seed=0, **options):
    """A run with everything that a page can show."""
    numbers = fakes.metrics(accuracy, 1.0 if name == "vanilla" else 0.5)
    peak = numbers["memory/train_peak_mib"]
    numbers |= {f"memory/train_{part}_mib": share * peak for part, share in PARTS.items()}
    numbers |= {"time/subspace_ms_p50": 5.0} if name == "wasi" else {}
    layers = LAYERS if name == "wasi" else []
    path = fakes.write(folder, numbers, fakes.config(name, epsilon, seed, options), layers=layers, history=HISTORY)
    (path.parent / "monitor.csv").write_text(MONITOR)


def rows(folder):
    (block,) = blocks_of(read_runs([folder])[0])
    return rows_of(block, 0)


def page(folder):
    pytest.importorskip("vl_convert")
    write_page(gather([folder]))
    return (folder / "report.html").read_text(encoding="utf-8")


def data(html, name):
    return json.loads(re.search(rf'id="{name}">(.*?)</script>', html, re.DOTALL)[1])


def titles(html):
    return re.findall(r"<article>\s*<h3>(.*?)</h3>", html)


def test_the_parts_of_a_profiled_step_are_explained(tmp_path):
    spent = {"time/breakdown_attention_ms": 20.0, "time/breakdown_rest_ms": 70.0}
    fakes.write(tmp_path, fakes.metrics(0.9, **spent), fakes.config())
    text = parts.time(rows(tmp_path)).text
    assert "Attention: scores" in text and "Rest: dense products" in text and "Decompositions" not in text


def _tooltips(node, values):
    """The fields that each tooltip in a Vega-Lite specification shows, with the data that it has them from."""
    if isinstance(node, dict):
        values = node.get("data", {}).get("values", values)
        shown = node.get("encoding", {}).get("tooltip", [])
        yield from [([entry["field"] for entry in shown], values)] if isinstance(shown, list) and shown else []
        for inside in node.values():
            yield from _tooltips(inside, values)
    elif isinstance(node, list):
        for inside in node:
            yield from _tooltips(inside, values)


@pytest.mark.parametrize(
    "section",
    [accuracy.section, epochs.curves, epochs.stability, parts.memory, parts.time, ranks.section]
    + [thresholds.time, thresholds.savings],
)
def test_every_field_of_a_tooltip_is_in_the_data(tmp_path, section):
    for name, epsilon in (("vanilla", None), ("wasi", 0.4), ("wasi", 0.8)):
        rich(tmp_path, name=name, epsilon=epsilon)
    found = [tip for figure in section(rows(tmp_path)).figures for tip in _tooltips(figure.spec, [])]
    assert found
    for fields, values in found:
        assert set(fields) <= set().union(*values), set(fields) - set().union(*values)


def test_every_section_stands_where_its_data_exist_and_its_figures_compile(tmp_path):
    vl_convert = pytest.importorskip("vl_convert")
    for name, epsilon in (("vanilla", None), ("wasi", 0.4), ("wasi", 0.8)):
        rich(tmp_path, name=name, epsilon=epsilon)
    html = page(tmp_path)
    assert titles(html) == [
        "Accuracy against cost",
        "Where memory goes",
        "Where a step&#39;s time goes",
        "Time against epsilon",
        "Predicted against measured savings",
        "Ranks of every layer",
        "Are ranks and subspaces stable?",
        "Loss and accuracy while training",
    ]
    specs = data(html, "figure-data")
    assert len(specs) == html.count("data-figure=") == 20
    for spec in specs:  # {"width": "container"} is of the browser
        assert vl_convert.vegalite_to_vega({**spec, "width": 300, "autosize": "pad"})["marks"]


def test_a_legends_mark_is_filled_as_those_of_its_figures(tmp_path):
    for lr in (0.01, 0.02, 0.03, 0.04):
        rich(tmp_path, **{"optimizer.lr": lr})
    found = accuracy.section(rows(tmp_path))
    looks = {value["series"]: value["fill"] for value in found.figures[0].spec["data"]["values"]}
    assert {key.label: key.fill for key in found.legend} == looks
    assert [(key.fill, key.colour) for key in found.legend][::3] == [(1, "#0072B2"), (1, "#73B1D5")]
    marks = re.findall(r'class="mark" fill-opacity="([^"]+)"', page(tmp_path))
    assert [float(fill) for fill in marks[:4]] == [1, 0, 0.5, 1]


def test_names_break_in_html_behind_their_separators_and_are_escaped(tmp_path):
    for lr in (0.1, 0.2):
        rich(tmp_path, **{"optimizer.lr": lr, "train.gradient_checkpointing": lr > 0.1})
    html = page(tmp_path)
    assert "gradient_<wbr>checkpointing=<wbr>true</span></button>" in html
    assert "gradient_<wbr>checkpointing=<wbr>true</span></span>" in html  # of the legend
    assert render._breakable("a_&lt<b>,'c/d'") == "a_<wbr>&amp;lt&lt;b&gt;,<wbr>&#39;c/<wbr>d&#39;"


def test_layers_stand_under_what_tells_them_apart(tmp_path):
    layers = [{**layer, "name": f"encoder.layers.encoder_layer_{place}.mlp.3"} for place, layer in enumerate(LAYERS)]
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config("wasi", 0.8), layers=layers)
    for figure in ranks.section(rows(tmp_path)).figures:
        (cells,) = figure.spec["layer"]
        axis = cells["encoding"]["x"]["axis"]
        assert axis["title"] == "layer: encoder.layers.encoder_layer_…"
        assert f"slice(datum.label, {len('encoder.layers.encoder_layer_')})" in axis["labelExpr"]
        assert figure.spec["data"]["values"][0]["layer"] == "encoder.layers.encoder_layer_0.mlp.3"


@pytest.mark.parametrize(
    ("names", "shared"),
    [
        (["blocks.1.fc1", "blocks.11.fc1"], "blocks."),
        (["blocks.0.mlp.fc1", "blocks.0.mlp.fc2"], "blocks.0.mlp."),
        (["stem", "head"], ""),
        (["blocks.0.mlp.fc1"], "blocks.0.mlp."),
    ],
)
def test_the_shared_start_of_layer_names_ends_between_words(names, shared):
    assert ranks._shared_start(names) == shared


def test_what_was_not_measured_has_no_section(tmp_path):
    fakes.write(tmp_path, {"val/acc": 0.8}, fakes.config())
    html = page(tmp_path)
    assert titles(html) == [] and data(html, "figure-data") == []
    assert "Step peak" not in html and "0.8000" in html


def test_it_needs_no_network_and_stays_small(tmp_path):
    for lr in range(40):
        rich(tmp_path, **{"optimizer.lr": 0.001 * (lr + 1)})
    html = page(tmp_path)
    assert len(html.encode()) < 3_000_000
    assert "default-src 'none'" in html  # the browser itself refuses to load anything
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", html.partition("<script>")[0])


def test_failures_alone_make_a_page_that_tells_them_as_they_are(tmp_path):
    error = "ValueError: <script>alert(1)</script>"
    fakes.write(tmp_path, {}, fakes.config("wasi", 0.4), status="failed", error=error)
    html = page(tmp_path)
    assert "No run was completed" in html and "1 of 1 run is left out of all numbers: 1 failed" in html
    assert "alert(1)" in html and "<script>alert" not in html and '<table id="table">' not in html


@pytest.mark.parametrize("options", [{"model.weights": "surrogate"}, {"dataset.name": "synthetic"}])
def test_accuracy_that_means_nothing_is_nowhere(tmp_path, options):
    for name, epsilon in (("vanilla", None), ("wasi", 0.8)):
        rich(tmp_path, 0.8125, name, epsilon, **options)
    html = page(tmp_path)
    assert "none may be quoted" in html and "0.8125" not in html
    assert "Accuracy against cost" not in titles(html)
    assert "wasi 0.8 takes 50% less peak memory in a training step (2.00×)" in html


def last_of(section, figure):
    """The record of the last epoch."""
    return section.figures[figure].spec["data"]["values"][-1]


def test_seeds_have_their_mean_and_range_and_layers_their_median_however_many(tmp_path):
    numbers = [*range(1, 12), 102]
    for seed, value in enumerate(numbers):
        fakes.write(tmp_path, fakes.metrics(0.8), fakes.config(seed=seed), history=[{"epoch": 1, "train/loss": value}])
    found = last_of(epochs.curves(rows(tmp_path)), 0)
    assert (found["y"], found["low"], found["high"], found["count"]) == (14, 1, 102, 12)

    few = tmp_path / "few"
    path = fakes.write(few, fakes.metrics(0.8), fakes.config("wasi", 0.8))
    lines = [f"1,9,fc{number},0,{angle}" for number, angle in enumerate((1, 2, 30))]
    (path.parent / "monitor.csv").write_text("\n".join(["epoch,step,layer,call,angle_mean_deg", *lines]) + "\n")
    found = last_of(epochs.stability(rows(few)), 0)
    assert (found["y"], found["low"], found["high"]) == (2, 1, 30)


def test_runs_and_their_benchmark_make_one_row(tmp_path):
    thresholds = {"vanilla": None, "wasi": 0.8}
    for name, epsilon in thresholds.items():
        for seed in (0, 1):
            fakes.write(tmp_path, {"val/acc": 0.8}, fakes.config(name, epsilon, seed))
    configurations = {name: fakes.config(name, epsilon) for name, epsilon in thresholds.items()}
    bench = copy.deepcopy(configurations["wasi"])
    bench["device"]["num_threads"], bench["train"]["epochs"] = 2, 1
    base = {**jobs.content(bench, jobs.metrics(50, 5, 100), jobs.metrics(100, 10, 400))}
    base["baseline"]["config"] = copy.deepcopy(configurations["vanilla"])
    (tmp_path / "bench").mkdir()
    jobs.write_sweep(tmp_path / "bench", [base])

    vanilla, wasi = rows(tmp_path)
    assert wasi.accuracy_text() == "0.8000 [0.8000, 0.8000]" and len(wasi.group.trained) == 2
    cells = {column.title: column.cells[wasi.key] for column in columns([vanilla, wasi])}
    assert (cells["Step"].text, cells["Step"].note) == ("50.00", "2.00× [1.80, 2.20]")
    assert vanilla.group.mean("time/train_step_ms_p50") == 100  # the benchmark's other side
    assert "Where a step&#39;s time goes" in titles(page(tmp_path))


def test_the_spread_of_a_single_row_is_within_its_panel(tmp_path):
    for seed, share in enumerate((0.3, 0.5)):
        rich(tmp_path, share, seed=seed)
    panel = accuracy.section(rows(tmp_path)).figures[0].spec
    (whisker,) = (layer["encoding"]["y"] for layer in panel["layer"] if "y2" in layer["encoding"])
    low, high = whisker["scale"].get("domain", (0.0, 1.0))  # without one the browser takes all values in
    (value,) = panel["data"]["values"]
    assert low <= value["low"] < value["high"] <= high


def test_a_benchmark_in_another_type_is_of_another_step(tmp_path):
    configuration = fakes.config("wasi", 0.8)
    fakes.write(tmp_path, {"val/acc": 0.8}, copy.deepcopy(configuration))
    configuration["device"]["dtype"] = "bfloat16"
    (tmp_path / "bench").mkdir()
    jobs.write_sweep(tmp_path / "bench", [jobs.content(configuration, jobs.metrics(50, 5, 100), None)])
    trained, benchmarked = sorted(rows(tmp_path), key=lambda row: row.group.options["device.dtype"], reverse=True)
    assert trained.cost(STEP) is None and benchmarked.cost(STEP) == 50 and not benchmarked.group.trained


def test_numbers_that_are_none_are_not_measured(tmp_path):
    history = [{"epoch": 1, "train/loss": float("nan")}, {"epoch": 2, "train/loss": 0.5}]
    fakes.write(tmp_path, fakes.metrics(0.8, **{"val/loss": float("inf")}), fakes.config(), history=history)
    figures = data(page(tmp_path), "figure-data")
    assert [value["epoch"] for value in figures[-1]["data"]["values"]] == [2]


def test_a_page_that_is_passed_on_tells_no_folders_of_this_machine(tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config(options={"model.weights": "/home/someone/net.safetensors"}))
    html = page(tmp_path)
    assert "net.safetensors" in html and "/home/someone" not in html and str(tmp_path) not in html


def test_folders_and_messages_from_elsewhere_are_names_too(tmp_path, monkeypatch):
    elsewhere = tmp_path / "someones" / "runs"
    fakes.write(tmp_path / "here", fakes.metrics(0.8), fakes.config())
    photos = {"dataset.name": "image_folder", "dataset.root": str(elsewhere / "photos")}
    fakes.write(elsewhere, fakes.metrics(0.7, 0.5), fakes.config("wasi", 0.8, options=photos))
    error = f"FileNotFoundError: [Errno 2] No such file or directory: '{elsewhere}/photos/a.png'"
    fakes.write(elsewhere, {}, fakes.config("wasi", 0.4), status="failed", error=error)
    (elsewhere / "job9").mkdir()
    (elsewhere / "job9" / "result.json").write_text("{")
    pytest.importorskip("vl_convert")
    write_page(gather([tmp_path / "here", elsewhere]))
    html = (tmp_path / "here" / "report.html").read_text(encoding="utf-8")
    assert str(tmp_path) not in html and "someones" not in html
    assert "image_folder (photos)" in html and "a.png" in html and '"folders":["job0"]' in html


def test_benchmarks_alone_make_a_page(tmp_path):
    sides = jobs.metrics(50, 5, 100), jobs.metrics(100, 10, 400)
    jobs.write_sweep(tmp_path, [jobs.content(jobs.config("wasi", epsilon), *sides) for epsilon in (0.6, 0.8)])
    assert [row.name for row in rows(tmp_path)] == ["vanilla", "wasi 0.6", "wasi 0.8"]
    html = page(tmp_path)
    assert "Time against epsilon" in titles(html) and "pretrained ones) and synthetic images (noise" in html


def test_an_invalid_benchmark_is_not_averaged(tmp_path):
    configuration = jobs.config("wasi", 0.8)
    invalid = jobs.content(configuration, jobs.metrics(50, 5, 100), None, "invalid", "the device throttled")
    jobs.write_sweep(tmp_path, [invalid])
    assert "the device throttled" in page(tmp_path)


def test_without_the_library_the_page_is_passed_over_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config())
    printed = write_report([tmp_path])
    assert "report.html passed over, for want of vl-convert-python" in printed
    assert not (tmp_path / "report.html").exists() and (tmp_path / "report.md").exists()


def test_every_column_is_explained(tmp_path):
    for name in ("vanilla", "wasi"):
        rich(tmp_path, name=name)
    unexplained = {column.title for column in columns(rows(tmp_path)) if not column.meaning}
    assert unexplained == set()


def test_methods_are_explained_and_a_remark_names_the_rows_that_it_is_about(tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.9), fakes.config())
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config("wasi", 0.8))
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config("lora", options={"optimizer.lr": 0.5}))
    html = page(tmp_path)
    assert re.search(r"<dt>wasi</dt><dd>weights held as two thin factors", html)
    assert "<dt>lora</dt>" in html and "<dt>asi</dt>" not in html
    (remark,) = re.findall(r'<p class="source">(lora: .*?)</p>', html)
    assert remark.partition(": ")[2] in rows(tmp_path)[2].comparison.remarks


def test_of_several_vanillas_the_page_tells_whose_costs_are_compared(tmp_path):
    for lr, acc in ((0.05, 0.8), (0.02, 0.9)):
        fakes.write(tmp_path, fakes.metrics(acc), fakes.config(options={"optimizer.lr": lr}))
    fakes.write(tmp_path, fakes.metrics(0.7), fakes.config("wasi", 0.8))
    *_, row = rows(tmp_path)
    assert row.comparison.costs_beside.options["optimizer.lr"] == 0.02  # not the one with the row's own
    assert "vanilla's (of several, the most accurate on validation images, unless a remark" in page(tmp_path)


def test_another_package_that_is_missing_is_not_taken_for_the_library(tmp_path, monkeypatch):
    pytest.importorskip("vl_convert")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "wasi.report.page.render", raising=False)
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config())
    with pytest.raises(ImportError, match="jinja2"):
        write_report([tmp_path])


def test_the_experiment_names_the_page_and_the_figures(tmp_path):
    provenance = fakes.PROVENANCE | {"experiment": "fig5_vit_cifar10"}
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config(), provenance=provenance)
    write_report([tmp_path])
    assert "<h1>fig5_vit_cifar10</h1>" in page(tmp_path)
    figures = sorted(path.name for path in tmp_path.glob("fig5*"))
    assert figures == [f"fig5_vit_cifar10_accuracy_vs_cost_vit_micro_digits.{form}" for form in ("png", "svg")]


def test_a_share_of_parameters_is_no_threshold():
    config = fakes.config("wasi", 0.8)
    assert (threshold(config), options.weight_label(config)) == (0.8, "0.8")
    config["method"]["parameter_ratio"] = 0.5  # the method does not look at its threshold then
    assert (threshold(config), options.weight_label(config)) == (None, "keep 0.5")


def test_time_against_epsilon_wants_a_method_at_two_thresholds(tmp_path):
    """Thresholds of two methods, one each, make no line."""
    rich(tmp_path, 0.9, "vanilla", None)
    rich(tmp_path, 0.9, "wasi", 0.8)
    rich(tmp_path, 0.9, "svd_llm", 0.6)
    assert thresholds.time(rows(tmp_path)) is None
    rich(tmp_path, 0.9, "wasi", 0.4)
    assert thresholds.time(rows(tmp_path)) is not None


def test_a_report_of_several_folders_is_named_after_all_of_them(tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        rich(tmp_path / name, 0.9, "vanilla", None, seed)
    assert gather([tmp_path / "one", tmp_path / "two"]).title == "one + two"


def test_a_warning_that_rows_share_stands_once_behind_their_names(tmp_path):
    for number, (name, momentum) in enumerate((("wasi", 0.5), ("wasi", 0.9), ("svd_llm", 0.5))):
        config = fakes.config(name, 0.8, options={"optimizer.momentum": momentum})
        job = jobs.content(config, jobs.metrics(60, 5, 60), jobs.metrics(100, 10, 400))
        job["baseline"]["config"] = fakes.config("vanilla")
        job["fingerprint"] = str(number)
        job["provenance"] |= {"device": "cpu", "warnings": ["ours times: wide spread"]}
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "bench.json").write_text(json.dumps(job))
    (line,) = render._measured_badly(rows(tmp_path))
    names = "svd_llm 0.8, “wasi 0.8, momentum=0.5”, “wasi 0.8, momentum=0.9”"  # not the baseline
    assert line == f"{names}: times: wide spread"


def test_times_of_a_busy_machine_have_no_front(tmp_path, monkeypatch):
    for name, epsilon in (("vanilla", None), ("wasi", 0.8)):
        rich(tmp_path, name=name, epsilon=epsilon)
    fronts = []
    for busy in (False, True):
        monkeypatch.setattr(accuracy, "are_comparable", lambda runs, busy=busy: not busy)
        figures = accuracy.section(rows(tmp_path)).figures
        fronts.append({figure.title: '"step-after"' in json.dumps(figure.spec) for figure in figures})
    idle, busy = fronts
    assert (
        all(idle.values())
        and {title for title in busy if not busy[title]}
        == {title for title in busy if "time" in title.lower() or "ms" in title}
        != set()
    )


def test_a_cost_of_a_single_row_among_several_has_no_panel(tmp_path):
    rich(tmp_path, name="wasi", epsilon=0.8)
    titles = [figure.title for figure in accuracy.section(rows(tmp_path)).figures]
    assert len(titles) > 1
    fakes.write(tmp_path, {"test/acc": 0.9, "val/acc": 0.9, "memory/train_peak_mib": 9.0}, fakes.config("lora"))
    figures = accuracy.section(rows(tmp_path)).figures
    assert [figure.title for figure in figures] == ["Peak memory of a training step (MiB)"]


def test_a_step_without_subspaces_stands_beside_those_with(tmp_path):
    rich(tmp_path, name="vanilla", epsilon=None)
    assert parts.time(rows(tmp_path)) is None  # a single part of every step says nothing
    rich(tmp_path)
    (figure,) = parts.time(rows(tmp_path)).figures
    output = re.findall(r'"line": "([^"]+)"[^}]*"part": "([^"]+)"', json.dumps(figure.spec))
    assert {(line.split()[0], part) for line, part in output} == {
        ("vanilla", "rest"),
        ("wasi", "rest"),
        ("wasi", "updating the subspaces"),
    }


def test_a_compiled_step_is_not_divided_in_kept_results_either(tmp_path):
    """They leave out that part of the provenance."""
    for compiled, epsilon in ((True, 0.4), (False, 0.8)):
        numbers = fakes.metrics(0.9, **{"time/subspace_ms_p50": 20.0})
        config = fakes.config("wasi", epsilon, options={"device.compile": compiled})
        fakes.write(tmp_path / "sweep", numbers, config, provenance=fakes.PROVENANCE | {"compiled": compiled})
    collect([tmp_path / "sweep"], tmp_path / "kept")
    for folder in ("sweep", "kept"):
        section = parts.time(rows(tmp_path / folder))
        assert section.text.endswith("Not drawn, as their steps were not divided into parts: “wasi 0.4, compile=true”.")


def test_where_a_row_was_profiled_the_others_are_named_and_not_drawn(tmp_path):
    spent = {"time/breakdown_attention_ms": 20.0, "time/breakdown_rest_ms": 70.0}
    fakes.write(tmp_path, fakes.metrics(0.9, **spent), fakes.config("wasi", 0.8))
    assert "Not drawn" not in parts.time(rows(tmp_path)).text
    rich(tmp_path, name="vanilla", epsilon=None)
    section = parts.time(rows(tmp_path))
    assert "Not drawn, as their steps were not divided into parts: vanilla." in section.text
    (figure,) = section.figures
    assert {value["name"] for value in figure.spec["data"]["values"]} == {"wasi 0.8"}
    for epsilon in (0.3, 0.4, 0.5, 0.6, 0.7, 0.9):
        rich(tmp_path, epsilon=epsilon)
    assert "wasi 0.7 and 1 more." in parts.time(rows(tmp_path)).text


@pytest.mark.parametrize(("most", "is_log"), [(3.9, False), (4.0, True)])
def test_page_and_static_figures_have_logarithmic_axes_from_the_same_range_on(tmp_path, most, is_log):
    fakes.write(tmp_path, fakes.metrics(0.9), fakes.config())
    for epsilon, saving in ((0.4, most), (0.8, 1.0)):
        fakes.write(tmp_path, fakes.metrics(0.8, 1 / saving), fakes.config("wasi", epsilon))
    assert thresholds.savings(rows(tmp_path)).is_log is is_log
    assert accuracy.section(rows(tmp_path)).is_log is is_log
    (block,) = blocks_of(read_runs([tmp_path])[0])
    drawn = figure_of(block)
    assert {ax.get_xscale() for ax in drawn.axes} == {"log" if is_log else "linear"}


@pytest.mark.parametrize(("peak", "is_log"), [(10.0, True), (0.0, False)])
def test_panels_that_share_their_axes_are_logarithmic_if_one_is_and_all_can_be(tmp_path, peak, is_log):
    fakes.write(tmp_path, fakes.metrics(0.9), fakes.config())
    numbers = fakes.metrics(0.8, 0.1 if not peak else 0.9, **{"memory/train_peak_mib": peak})
    fakes.write(tmp_path, numbers, fakes.config("wasi", 0.8))
    assert accuracy.section(rows(tmp_path)).is_log is is_log


def test_a_lines_shade_and_label_are_its_rows_threshold(tmp_path):
    rich(tmp_path, name="vanilla", epsilon=None)
    for epsilon in (0.4, 0.6, 0.8):
        rich(tmp_path, epsilon=epsilon)
    found = epochs.curves(rows(tmp_path))
    vanilla, wasi = found.legend
    assert (vanilla.label, vanilla.opacity, vanilla.members) == ("vanilla", 1, ())
    assert wasi.label == "wasi" and wasi.rows == (1, 2, 3)
    assert [(key.label, key.opacity) for key in wasi.members] == [("0.4", 0.4), ("0.6", 0.7), ("0.8", 1)]
    assert "the paler has the lower threshold" in found.text
    spec = found.figures[0].spec
    (shade,) = {json.dumps(layer["encoding"]["opacity"]["scale"]) for layer in spec["layer"]
                if "opacity" in layer["encoding"]}  # fmt: skip
    assert json.loads(shade) == {"type": "ordinal", "domain": [0, 1, 2, 3], "range": [1, 0.4, 0.7, 1]}
    labels = {value["name"]: value["label"] for value in spec["data"]["values"] if "label" in value}
    assert labels == {"wasi 0.4": "0.4", "wasi 0.6": "0.6", "wasi 0.8": "0.8"}
    assert [value["epoch"] for value in spec["data"]["values"] if "label" in value] == [3, 3, 3]


def test_points_of_one_series_are_labelled_and_the_text_says_so(tmp_path):
    for name, epsilon in (("vanilla", None), ("wasi", 0.4), ("wasi", 0.8)):
        rich(tmp_path, name=name, epsilon=epsilon)
    for section in (accuracy.section(rows(tmp_path)), thresholds.savings(rows(tmp_path))):
        assert "Beside marks, where there is room: the threshold" in section.text
        for figure in section.figures:
            labels = {value["name"]: value.get("label") for value in figure.spec["data"]["values"]}
            assert labels["wasi 0.4"] == "0.4" and labels["wasi 0.8"] == "0.8" and labels.get("vanilla") is None


def test_numbers_that_are_none_and_epochs_without_a_number_are_skipped(tmp_path):
    history = [{"epoch": None, "train/loss": 1.0}, {"epoch": 1, "train/loss": 0.5}]
    path = fakes.write(tmp_path, fakes.metrics(0.8), fakes.config("wasi", 0.8), history=history)
    lines = ["0,0,fc,0,nan", "0,0,fd,0,2.0", "1,9,fc,0,inf"]
    (path.parent / "monitor.csv").write_text("\n".join(["epoch,step,layer,call,angle_mean_deg", *lines]) + "\n")
    for section, expected in ((epochs.curves, [(1, 0.5)]), (epochs.stability, [(0, 2.0)])):
        (figure,) = section(rows(tmp_path)).figures
        assert [(one["epoch"], one["y"]) for one in figure.spec["data"]["values"]] == expected


@pytest.mark.parametrize("damage", [b"\xff", b"\x00\x00"])
def test_what_is_damaged_of_a_runs_course_costs_no_report(tmp_path, damage):
    rich(tmp_path)
    (path,) = tmp_path.rglob("monitor.csv")
    path.write_bytes(path.read_bytes() + damage)
    assert epochs.curves(rows(tmp_path)) is not None
    epochs.stability(rows(tmp_path))


def test_ranks_of_one_seed_are_not_shown_beside_a_mean_of_others(tmp_path):
    for seed, kept in enumerate(([8, 9, 12], [8, 9, 14])):
        layer = {"name": "fc", "in_features": 64, "out_features": 64, "activation_ranks": kept}
        fakes.write(tmp_path, fakes.metrics(0.8), fakes.config("wasi", 0.8, seed), layers=[layer])
    (figure,) = ranks.section(rows(tmp_path)).figures
    assert [cell["amount"] for cell in figure.spec["data"]["values"]] == ["13 of 64 features"]
