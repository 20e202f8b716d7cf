import copy
import json
import re
import sys

import pytest

from tests.bench import jobs
from tests.report import fakes
from wasi.report import write_report
from wasi.report.baseline import compare
from wasi.report.columns import STEP
from wasi.report.groups import blocks_of
from wasi.report.load import read_runs
from wasi.report.page import conclusion, epochs
from wasi.report.page.rows import rows_of
from wasi.report.page.table import columns
from wasi.report.write import gather, write_page

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
    return rows_of(block, compare(block), 0)


def page(folder):
    pytest.importorskip("vl_convert")
    write_page(gather([folder]))
    return (folder / "report.html").read_text(encoding="utf-8")


def data(html, name):
    return json.loads(re.search(rf'id="{name}">(.*?)</script>', html, re.DOTALL)[1])


def titles(html):
    return re.findall(r"<article>\s*<h3>(.*?)</h3>", html)


def told(folder):
    found = conclusion.of_block(rows(folder))
    return " ".join(statement.text for statement in found)


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
        "Do ranks and subspaces hold?",
        "Loss and accuracy while training",
    ]
    specs = data(html, "figure-data")
    assert len(specs) == html.count("data-figure=") == 20
    for spec in specs:  # {"width": "container"} is of the browser
        assert vl_convert.vegalite_to_vega({**spec, "width": 300, "autosize": "pad"})["marks"]


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
    assert "No run was completed" in html and "1 of 1 is in none of these numbers: 1 failed" in html
    assert "alert(1)" in html and "<script>alert" not in html and '<table id="table">' not in html


@pytest.mark.parametrize("options", [{"model.weights": "surrogate"}, {"dataset.name": "synthetic"}])
def test_accuracy_that_means_nothing_is_nowhere(tmp_path, options):
    for name, epsilon in (("vanilla", None), ("wasi", 0.8)):
        rich(tmp_path, 0.8125, name, epsilon, **options)
    html = page(tmp_path)
    assert "none may be quoted" in html and "0.8125" not in html
    assert "Accuracy against cost" not in titles(html)
    assert "wasi 0.8 takes 50% less peak memory in a training step (2.00×)" in html


def test_equal_accuracy_is_told_with_its_interval_and_what_is_saved(tmp_path):
    for seed, noise in enumerate((0.004, -0.003, 0.001, -0.001, 0.002)):
        rich(tmp_path, 0.9, "vanilla", None, seed)
        rich(tmp_path, 0.9 + noise, "wasi", 0.8, seed)
    text = told(tmp_path)
    assert "The accuracy of wasi 0.8 cannot be told apart from that of vanilla (+0.06 points, 95 % interval" in text
    assert "5 seeds), and it takes 50% less peak memory in a training step (2.00×)" in text
    assert "Within noise of vanilla's accuracy is wasi 0.8" in text and "So wide" not in text


def test_a_wide_interval_is_not_called_equal(tmp_path):
    for seed, noise in enumerate((0.05, -0.06)):
        rich(tmp_path, 0.8, "vanilla", None, seed)
        rich(tmp_path, 0.8 + noise, "wasi", 0.8, seed)
    assert "So wide an interval shows little" in told(tmp_path)


def test_a_loss_of_accuracy_is_told(tmp_path):
    for seed in range(3):
        rich(tmp_path, 0.9 + 0.001 * seed, "vanilla", None, seed)
        rich(tmp_path, 0.8 + 0.002 * seed, "wasi", 0.8, seed)
    text = told(tmp_path)
    assert "No WASI row keeps the accuracy of vanilla. Nearest is wasi 0.8 (−9.90 points" in text
    assert "Accuracy in points below vanilla's: wasi 0.8 (−9.90)." in text


def test_one_seed_tells_no_difference_from_noise(tmp_path):
    rich(tmp_path, 0.9, "vanilla", None)
    rich(tmp_path, 0.89)
    assert "One seed cannot tell such a difference from noise" in told(tmp_path)


def test_savings_are_told_against_the_vanilla_that_was_tuned_best(tmp_path):
    for seed in range(2):
        rich(tmp_path, 0.5 + 0.01 * seed, "vanilla", None, seed, **{"optimizer.lr": 0.001})
        rich(tmp_path, 0.9 + 0.01 * seed, "vanilla", None, seed, **{"optimizer.lr": 0.1})
        rich(tmp_path, 0.8 + 0.02 * seed, "wasi", 0.8, seed, **{"optimizer.lr": 0.001})
    text = told(tmp_path)
    assert "No WASI row keeps the accuracy of vanilla, lr=0.1" in text
    assert "above" not in text


def test_other_seeds_than_vanillas_are_not_called_equal(tmp_path):
    for seed, noise in enumerate((0.001, -0.001, 0.002)):
        rich(tmp_path, 0.9 + noise, "vanilla", None, seed)
        rich(tmp_path, 0.9 - noise, "wasi", 0.8, seed + 1)
    text = told(tmp_path)
    assert "must not be called equal" in text and "So wide an interval" not in text


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
    assert wasi.told_accuracy() == "0.8000 [0.8000, 0.8000]" and len(wasi.group.trained) == 2
    cells = {column.title: column.cells[wasi.key] for column in columns([vanilla, wasi])}
    assert (cells["Step"].text, cells["Step"].note) == ("50.00", "2.00× [1.80, 2.20]")
    assert vanilla.group.mean("time/train_step_ms_p50") == 100  # the benchmark's other side
    assert "Where a step&#39;s time goes" in titles(page(tmp_path))


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


def test_benchmarks_alone_make_a_page(tmp_path):
    sides = jobs.metrics(50, 5, 100), jobs.metrics(100, 10, 400)
    jobs.write_sweep(tmp_path, [jobs.content(jobs.config("wasi", epsilon), *sides) for epsilon in (0.6, 0.8)])
    assert [row.name for row in rows(tmp_path)] == ["vanilla", "wasi 0.6", "wasi 0.8"]
    html = page(tmp_path)
    assert "Time against epsilon" in titles(html) and "Surrogate weights and synthetic images" in html


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


def test_the_experiment_names_the_page_and_the_figures(tmp_path):
    provenance = fakes.PROVENANCE | {"experiment": "fig5_vit_cifar10"}
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config(), provenance=provenance)
    write_report([tmp_path])
    assert "<h1>fig5_vit_cifar10</h1>" in page(tmp_path)
    figures = sorted(path.name for path in tmp_path.glob("fig5*"))
    assert figures == [f"fig5_vit_cifar10_accuracy_vs_cost_vit_micro_digits.{form}" for form in ("png", "svg")]


def test_times_of_several_machines_make_no_front(tmp_path):
    other = copy.deepcopy(fakes.PROVENANCE) | {"threads": {"torch": 1}}
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config())
    fakes.write(tmp_path, fakes.metrics(0.7, 0.5), fakes.config("wasi", 0.8), provenance=other)
    assert "No Pareto front: step times are of several machines" in told(tmp_path)
