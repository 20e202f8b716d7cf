"""Kept results and the tables made from them, on numbers whose outcome is known."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import stdev

import pytest
from scipy.stats import t, ttest_ind, ttest_rel

from tests.report import fakes
from wasi.errors import UserError
from wasi.report.columns import PEAK
from wasi.report.options import row_name
from wasi.results.__main__ import main
from wasi.results.collect import collect
from wasi.results.documents import stale_documents, update
from wasi.results.kept_result import read_kept
from wasi.results.rows import table_of
from wasi.results.table import markdown
from wasi.results.verdict import sentences

ROOT = Path(__file__).resolve().parents[2]
NOISE = [0.003, -0.001, 0.002, -0.002, 0.001]
DIFFERENCE = [0.001, 0.0, -0.001, 0.002, -0.002]


def _config(recipe, name, seed, memory, epsilon=None):
    options = {"train.memory": memory}
    return fakes.config(name, epsilon, seed, options) | {"recipe": recipe, "bench": {"baseline_recipe": "vanilla"}}


def _row(folder, recipe, name, below, step, inference, peak, epsilon=None, commit="c" * 40):
    """Five runs at 0.9 - below, up to noise that all rows share, and a benchmark."""
    memory = "lean" if recipe.endswith("_lean") else "plain"
    code = fakes.PROVENANCE | {"git_commit": commit}
    for seed, (noise, own) in enumerate(zip(NOISE, DIFFERENCE, strict=True)):
        numbers = {"val/acc": 0.9 + noise - below + (own if below else 0), "memory/train_peak_mib": 1.0}
        fakes.write(folder, numbers, _config(recipe, name, seed, memory, epsilon), provenance=code)
    ratio = {"time/train_step_ms_p50": {"p50": step, "low": step - 0.1, "high": step + 0.1}}
    ratio["time/inference_ms_p50"] = {"p50": inference, "low": inference, "high": inference}
    content = {
        "schema_version": 1, "status": "completed", "error": None, "ratio": ratio,
        "config": _config(recipe, name, 0, memory, epsilon),
        "metrics": {"memory/train_peak_mib": peak, "memory/process_rss_peak_mib": peak + 500},
        "baseline": {"config": _config("vanilla", "vanilla", 0, "plain"), "metrics": {"memory/train_peak_mib": 900}},
        "fingerprint": recipe, "provenance": code,
    }  # fmt: skip
    job = folder / f"bench_{recipe}"
    job.mkdir(parents=True)
    (job / "bench.json").write_text(json.dumps(content))


def _sweep(folder, wasi_below=0.01, **fields):
    _row(folder, "vanilla", "vanilla", 0.0, 1.0, 1.0, 900, **fields)
    _row(folder, "lora_r8", "lora", 0.004, 1.1, 1.0, 700, **fields)
    _row(folder, "lora_r8_lean", "lora", 0.004, 0.8, 1.0, 120, **fields)
    _row(folder, "wasi_0.8", "wasi", wasi_below, 1.4, 1.6, 500, epsilon=0.8, **fields)
    _row(folder, "wasi_0.8_lean", "wasi", wasi_below, 1.0, 1.6, 80, epsilon=0.8, **fields)


@pytest.fixture
def kept(tmp_path):
    _sweep(tmp_path / "sweep")
    collect([tmp_path / "sweep"], tmp_path / "results" / "t")
    return tmp_path / "results" / "t"


def _change(path, **provenance):
    content = json.loads(path.read_text())
    content["provenance"] |= provenance
    path.write_text(json.dumps(content))


def test_differences_are_paired_over_seeds(kept):
    found = table_of("t", read_kept(kept))
    row = next(row for row in found.rows if row.name == "wasi_0.8")
    ours, theirs = row.accuracies, found.baseline.accuracies
    difference = found.difference(row)
    low, high = ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (difference.n, difference.interval) == (5, (pytest.approx(low), pytest.approx(high)))
    unpaired = ttest_ind(ours, theirs).confidence_interval(0.95)  # the noise is shared, so this one is wider
    assert high - low < 0.9 * (unpaired.high - unpaired.low)


@pytest.mark.parametrize(("option", "value"), [("model.weights", "surrogate"), ("dataset.name", "synthetic")])
def test_accuracy_that_means_nothing_is_in_no_table_either(kept, option, value):
    section, name = option.split(".")
    for path in kept.glob("*.json"):
        content = json.loads(path.read_text())
        content["config"][section][name] = value
        path.write_text(json.dumps(content))
    found = table_of("t", read_kept(kept))
    assert found.front == set() and {found.difference(row) for row in found.rows} == {None}
    text = markdown(found)
    assert "val acc" not in text and "Δ" not in text and "(n=5)" not in text
    assert "| wasi_0.8 | SGD, 0.05 | 1.40× [1.30, 1.50] | 1.60× | 500 | 1000 |" in text


def test_the_front_is_of_accuracy_time_and_memory(kept):
    found = table_of("t", read_kept(kept))
    assert found.front == {"vanilla", "lora_r8", "lora_r8_lean", "wasi_0.8", "wasi_0.8_lean"}
    rows = {row.name: row for row in found.rows}
    assert rows["wasi_0.8_lean"].point == (pytest.approx(0.8906), 1.0, -80)


def test_a_row_that_meets_every_target_is_named(kept):
    output = " ".join(sentences(table_of("t", read_kept(kept))))
    assert output.startswith("wasi_0.8 meets the four targets at once: accuracy -1.00 points against vanilla (at least")
    assert "step 1.40× as fast as vanilla's (at least 1.3×), lean peak 0.67 of lean LoRA's with unquant" in output
    assert "inference 1.60× as fast as plain LoRA's (at least 1.3×)." in output
    assert "No other row is better than every WASI row" in output


def test_a_row_of_one_seed_on_the_front_is_marked(tmp_path):
    _sweep(tmp_path / "sweep")
    collect([tmp_path / "sweep"], tmp_path / "t")
    for path in (tmp_path / "t").glob("*.json"):
        content = json.loads(path.read_text())
        if (content["config"]["recipe"], content["kind"]) == ("wasi_0.8_lean", "run") and content["config"]["seed"]:
            path.unlink()
    output = " ".join(sentences(table_of("t", read_kept(tmp_path / "t"))))
    assert "of the WASI rows, wasi_0.8 and wasi_0.8_lean (one seed) are on the Pareto front" in output


def test_an_interval_that_reaches_beyond_the_target_of_accuracy_is_told(tmp_path):
    _sweep(tmp_path / "other", wasi_below=0.0142)
    collect([tmp_path / "other"], tmp_path / "u")
    output = " ".join(sentences(table_of("u", read_kept(tmp_path / "u"))))
    low = 100 * (-0.0142 - t.ppf(0.975, 4) * stdev(DIFFERENCE) / 5**0.5)
    assert f"accuracy -1.42 points against vanilla (at least -1.5; 95 % interval {low:+.2f} to " in output
    assert low < -1.5 and "meets the four targets" in output  # which the mean meets


def test_a_missed_target_and_a_better_rival_are_named(tmp_path):
    _sweep(tmp_path / "sweep", wasi_below=0.02)
    _row(tmp_path / "sweep", "best", "lora", 0.001, 1.5, 3.0, 60)
    collect([tmp_path / "sweep"], tmp_path / "t")
    output = " ".join(sentences(table_of("t", read_kept(tmp_path / "t"))))
    assert "No WASI row meets the four targets" in output and "wasi_0.8 misses accuracy -2.00 points" in output
    assert "inference 0.53× as fast as plain LoRA's (at least 1.3×)." in output
    assert "best is better than every WASI row in accuracy, step time and peak of live tensors together." in output


def test_a_quantized_rival_is_told_of_and_does_not_judge_the_peak(kept):
    """0.7 of 120 MiB stays the bound; that 4 bits need less memory is a sentence of its own."""
    _add_benchmark(kept, "lora_r8_lean", "lora_nf4_lean", peak=40, base="nf4")
    output = " ".join(sentences(table_of("t", read_kept(kept))))
    assert output.startswith("wasi_0.8 meets the four targets at once")
    less = "lora_nf4_lean (40 MiB, 0.80× as fast as the baseline) needs less memory in a step than the leanest WASI row"
    assert f"{less} (80 MiB)." in output


def test_rows_that_were_measured_in_part_do_not_hide_one_that_meets_every_target(kept):
    _add_benchmark(kept, "wasi_0.8", "wasi_0.9", peak=510, base=None)
    assert sentences(table_of("t", read_kept(kept)))[0].startswith("wasi_0.8 meets the four targets at once")


def test_a_lean_row_that_was_not_trained_names_its_plain_twin_and_is_on_no_front(kept):
    for path in kept.glob("*.json"):
        content = json.loads(path.read_text())
        if content["config"]["recipe"] == "lora_r8_lean" and content["kind"] == "run":
            path.unlink()
    found = table_of("t", read_kept(kept))
    rows = {row.name: row for row in found.rows}
    assert rows["lora_r8_lean"].trained_as == "lora_r8" and rows["lora_r8_lean"].mean is None
    assert "lora_r8_lean" not in found.front and found.difference(rows["lora_r8_lean"]) is None
    assert all(row.trained_as is None for name, row in rows.items() if name != "lora_r8_lean")
    assert "| as lora_r8 | - |" in markdown(found)


def test_options_of_the_memory_policy_alone_leave_a_twin_a_twin(kept):
    for path in kept.glob("*.json"):
        content = json.loads(path.read_text())
        if content["config"]["recipe"] == "lora_r8_lean" and content["kind"] == "run":
            path.unlink()
        elif content["config"]["recipe"] == "lora_r8_lean":
            content["config"]["train"]["chunk_size"] = 4
            path.write_text(json.dumps(content))
    rows = {row.name: row for row in table_of("t", read_kept(kept)).rows}
    assert rows["lora_r8_lean"].trained_as == "lora_r8"


def _add_benchmark(kept, like, name, peak, base):
    content = json.loads((kept / f"bench_{like}.json").read_text())
    content["config"]["recipe"], content["config"]["method"]["base"] = name, base
    content["config"]["optimizer"]["lr"] = 0.5  # no row has these options
    content["metrics"]["memory/train_peak_mib"] = peak
    (kept / f"bench_{name}.json").write_text(json.dumps(content))


def test_what_was_not_measured_is_not_judged(kept):
    for path in kept.glob("bench_wasi*"):
        path.unlink()
    (output,) = sentences(table_of("t", read_kept(kept)))
    assert output.startswith("The four targets cannot be judged")
    assert output.endswith("not measured for every row: inference, lean peak, step.")
    for path in kept.glob("bench_*"):
        path.unlink()
    assert sentences(table_of("t", read_kept(kept))) == []  # a table of accuracy alone


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({"git_commit": "d" * 40}, "results of one commit, not "),
        ({"git_dirty": True}, "of a dirty tree"),
        ({"device": "cuda"}, "results of one device"),
        ({"versions": {"torch": "2.9.0"}}, r"results of one torch version \((run|bench)\), not "),
    ],
)
@pytest.mark.parametrize("file", ["job0.json", "bench_lora_r8.json"])
def test_mixtures_are_refused(kept, file, provenance, message):
    _change(kept / file, **provenance)
    with pytest.raises(UserError, match=message):
        table_of("t", read_kept(kept))


def test_accuracy_may_come_from_several_processors_and_says_so_but_times_may_not(kept):
    _change(kept / "job0.json", machine={"processor": "another"})
    output = "accuracy: another, 4 threads and Cortex-A76, 4 threads, times and memory: Cortex-A76, 4 threads."
    assert output in markdown(table_of("t", read_kept(kept)))
    _change(kept / "bench_lora_r8.json", machine={"processor": "another"})
    with pytest.raises(UserError, match="results of one processor"):
        table_of("t", read_kept(kept))


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({"cuda": "NVIDIA A100"}, "results of one GPU"),
        ({"threads": {"torch": 1}}, "results of one number of threads"),
        ({"cpu_wait_share": 0.1}, "threads of lora_r8 waited 10% of their time for a processor"),
    ],
)
def test_times_of_another_gpu_of_other_threads_or_a_busy_machine_are_refused(kept, provenance, message):
    _change(kept / "job0.json", **provenance)
    _change(kept / "bench_lora_r8.json", cpu_wait_share=0.09)
    table_of("t", read_kept(kept))  # of an accuracy
    _change(kept / "bench_lora_r8.json", **provenance)
    with pytest.raises(UserError, match=message):
        table_of("t", read_kept(kept))


def test_a_row_may_be_trained_on_a_gpu_and_benchmarked_on_a_cpu(kept):
    for path in kept.glob("job*.json"):
        _change(path, device="cuda")
    assert all(row.group.bench and len(row.accuracies) == 5 for row in table_of("t", read_kept(kept)).rows)


def test_the_gpu_is_named_where_it_is_known(kept):
    for path in kept.glob("*.json"):
        _change(path, device="cuda", **({"cuda": "NVIDIA H100"} if path.name.startswith("bench") else {}))
    output = "accuracy: Cortex-A76, 4 threads and cuda, times and memory: Cortex-A76, 4 threads and NVIDIA H100."
    assert output in markdown(table_of("t", read_kept(kept)))


def test_one_row_of_two_configurations_is_refused(kept):
    content = json.loads((kept / "job0.json").read_text())
    content["config"]["optimizer"]["lr"] = 7
    (kept / "job0.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="one configuration in row vanilla"):
        table_of("t", read_kept(kept))


def test_a_row_may_be_benchmarked_at_another_learning_rate_but_with_no_other_optimizer(kept):
    path = kept / "bench_wasi_0.8.json"
    content = json.loads(path.read_text())
    content["config"]["optimizer"]["lr"] = 7
    path.write_text(json.dumps(content))
    (row,) = (row for row in table_of("t", read_kept(kept)).rows if row.name == "wasi_0.8")
    assert len(row.accuracies) == 5 and row.measured(PEAK) == 500 and row.group.options["optimizer.lr"] == 0.05
    content["config"]["optimizer"]["momentum"] = 0.5
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="one configuration in row wasi_0.8"):
        table_of("t", read_kept(kept))


def test_two_benchmarks_of_a_row_that_was_not_trained_are_refused(kept):
    for path in kept.glob("*.json"):
        if row_name(json.loads(path.read_text())["config"]) == "lora_r8" and not path.name.startswith("bench"):
            path.unlink()
    assert any(row.name == "lora_r8" and not row.accuracies for row in table_of("t", read_kept(kept)).rows)
    content = json.loads((kept / "bench_lora_r8.json").read_text())
    (kept / "bench_again.json").write_text(json.dumps(content | {"fingerprint": "again"}))
    with pytest.raises(UserError, match="one configuration in row lora_r8, with each seed and one benchmark once"):
        table_of("t", read_kept(kept))


@pytest.mark.parametrize("option", ["scheduler.warmup_epochs", "train.epochs", "dataset.val_fraction"])
def test_every_option_that_changes_a_result_is_kept(tmp_path, option):
    section, name = option.split(".")
    for seed, value in enumerate([1, 2]):
        config = _config("vanilla", "vanilla", seed, "plain")
        config.setdefault(section, {})[name] = value
        fakes.write(tmp_path / "sweep", {"val/acc": 0.9}, config, provenance=fakes.PROVENANCE)
    collect([tmp_path / "sweep"], tmp_path / "t")
    kept = [json.loads(path.read_text())["config"] for path in sorted((tmp_path / "t").iterdir())]
    assert [config[section].pop(name) for config in kept] == [1, 2]
    assert kept[0] | {"seed": 1} == kept[1]


@pytest.mark.parametrize(("option", "value"), [("dataset.grayscale", True), ("model.drop_path_rate", 0.1)])
def test_other_options_of_model_or_data_are_refused_where_both_files_tell_them(kept, option, value):
    table_of("t", read_kept(kept))
    section, name = option.split(".")
    for path, told in (("job0.json", value), ("job1.json", None)):
        content = json.loads((kept / path).read_text())
        content["config"][section][name] = told
        (kept / path).write_text(json.dumps(content))
        if path == "job0.json":
            table_of("t", read_kept(kept))  # the other files do not tell
    with pytest.raises(UserError, match=f"results of one {option}, not "):
        table_of("t", read_kept(kept))


def test_of_a_folder_of_images_the_name_is_kept_and_others_are_refused(tmp_path):
    for number, root in enumerate(["/home/me/cats", "/home/me/cars"]):
        config = _config("vanilla", "vanilla", number, "plain")
        config["dataset"] |= {"name": "image_folder", "root": root}
        fakes.write(tmp_path / "sweep", {"val/acc": 0.9}, config, provenance=fakes.PROVENANCE)
    collect([tmp_path / "sweep"], tmp_path / "t")
    kept = [json.loads(path.read_text()) for path in (tmp_path / "t").iterdir()]
    assert {found["config"]["dataset"]["root"] for found in kept} == {"cats", "cars"}
    with pytest.raises(UserError, match="results of one dataset.root, not "):
        table_of("t", read_kept(tmp_path / "t"))


@pytest.mark.parametrize("is_table", [False, True])
def test_of_a_runs_folder_or_a_table_of_ranks_the_name_is_kept(tmp_path, is_table):
    config = _config("wasi", "wasi", 0, "plain", 0.8)
    if is_table:
        config["method"]["activations"]["perplexity"] = {"table": "/home/me/a_run/perplexity.json"}
    else:
        config["model"]["weights"] = "/home/me/a_run"
    fakes.write(tmp_path / "sweep", {"val/acc": 0.9}, config, provenance=fakes.PROVENANCE)
    collect([tmp_path / "sweep"], tmp_path / "t")
    (path,) = (tmp_path / "t").iterdir()
    assert ('"perplexity.json"' if is_table else '"a_run"') in path.read_text() and "/home" not in path.read_text()


def test_runs_of_one_row_may_have_their_threads_by_an_option_or_by_the_environment(tmp_path):
    _sweep(tmp_path / "sweep")
    for path in (tmp_path / "sweep").rglob("result.json"):
        content = json.loads(path.read_text())
        content["config"].setdefault("device", {})["num_threads"] = 1 if content["config"]["seed"] % 2 else None
        path.write_text(json.dumps(content))
    collect([tmp_path / "sweep"], tmp_path / "t")
    assert sum(len(row.accuracies) for row in table_of("t", read_kept(tmp_path / "t")).rows) == 25


def test_collecting_again_replaces_and_leaves_other_files_alone(tmp_path, kept):
    (kept / "notes.json").write_text("{}")
    fresh = tmp_path / "fresh"
    fakes.write(fresh, {"val/acc": 0.5}, fakes.config())
    fakes.write(fresh, {}, fakes.config(seed=1), status="failed")
    before = {path for path in kept.iterdir() if path.name != "notes.json"}
    left_out, *removed = collect([fresh], kept)
    assert left_out == f"left out {fresh}/job1: failed"
    assert sorted(removed) == sorted(f"removed {path}: not among these jobs" for path in before if not path.exists())
    assert sorted(path.name for path in kept.iterdir()) == ["job0.json", "notes.json"]


def test_of_a_job_that_two_sweeps_have_the_last_is_kept_and_the_other_told(tmp_path):
    for name, accuracy in (("a", 0.25), ("b", 0.5)):
        fakes.write(tmp_path / name, {"val/acc": accuracy}, fakes.config())
    (output,) = collect([tmp_path / "a", tmp_path / "b", tmp_path / "b"], tmp_path / "kept")
    assert output == f"left out {tmp_path}/a/job0: {tmp_path}/b/job0 is the same job"
    (run,) = read_kept(tmp_path / "kept")
    assert run.metrics["val/acc"] == 0.5


def test_a_damaged_result_is_left_out(tmp_path):
    fakes.write(tmp_path / "sweep", {"val/acc": 0.5}, fakes.config())
    (tmp_path / "sweep" / "job1").mkdir()
    (tmp_path / "sweep" / "job1" / "result.json").write_text('{"schema_version": 1, "status": "completed"}')
    (output,) = collect([tmp_path / "sweep"], tmp_path / "kept")
    assert output.startswith(f"left out {tmp_path}/sweep/job1: damaged (KeyError: ")


def test_a_result_with_a_number_that_json_lacks_is_left_out_before_anything_is_written(tmp_path):
    fakes.write(tmp_path / "sweep", {"val/acc": 0.5}, fakes.config())
    path = fakes.write(tmp_path / "sweep", {"val/acc": 0.5}, fakes.config(seed=1))
    path.write_text(path.read_text().replace("0.5", "NaN"))
    (output,) = collect([tmp_path / "sweep"], tmp_path / "kept")
    assert output.startswith(f"left out {path.parent}: damaged (ValueError: ")
    assert [kept.name for kept in (tmp_path / "kept").iterdir()] == ["job0.json"]


def test_what_cannot_be_collected_is_refused(tmp_path, kept):
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("")
    other.mkdir()
    (other / "result.json").write_text('{"hello": 1}')
    fakes.write(tmp_path / "fresh", {"val/acc": 0.5}, fakes.config())
    with pytest.raises(UserError, match=f"--into={file}: allowed is a folder"):
        collect([tmp_path / "fresh"], file)
    with pytest.raises(UserError, match="--into=.*fresh: allowed is another folder than the sweep's own"):
        collect([tmp_path / "fresh"], tmp_path / "other" / ".." / "fresh")
    with pytest.raises(UserError, match="a completed job below it; left out .*other: no result of this program$"):
        collect([other], kept)
    for row in ("", " ", "a/b", "a, b", ".a"):
        with pytest.raises(UserError, match="^--row=.*: allowed is a name of letters"):
            collect([tmp_path / "fresh"], kept, row)


def test_a_row_can_be_named_and_added(tmp_path, kept):
    before = {path.name for path in kept.iterdir()}
    fakes.write(tmp_path / "more" / "one", {"val/acc": 0.5}, fakes.config(), provenance=fakes.PROVENANCE)
    collect([tmp_path / "more"], kept, row="mine")
    assert {path.name for path in kept.iterdir()} >= before
    assert [row_name(run.config) for run in read_kept(kept) if run.metrics.get("val/acc") == 0.5] == ["mine"]


def _document(root, body="old\n", end="<!-- /table -->\n"):
    (root / "docs").mkdir()
    (root / "README.md").write_text(f"# Title\n\n<!-- table: t -->\n{body}{end}\nafter\n")


def test_a_document_is_made_from_results_alone(tmp_path, kept):
    _document(tmp_path)
    assert update(tmp_path) == [tmp_path / "README.md"]
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("# Title\n\n<!-- table: t -->\n") and text.endswith("\n<!-- /table -->\n\nafter\n")
    cells = ["**wasi_0.8**", "SGD, 0.05", "0.8906 ± 0.0021 (n=5)", "-1.00 [-1.20, -0.80]", "1.40× [1.30, 1.50]"]
    assert f"\n| {' | '.join(cells)} | 1.60× | 500 | 1000 |\n" in text
    assert "\nold\n" not in text and stale_documents(tmp_path) == {}


def test_a_brief_table_has_fewer_columns_and_no_sentences(tmp_path, kept):
    _document(tmp_path, end="<!-- /brief -->\n")
    document = tmp_path / "README.md"
    document.write_text(document.read_text().replace("table: t", "brief: t of vanilla, wasi_0.8"))
    update(tmp_path)
    text = document.read_text()
    assert "\n| | val acc | Δ vanilla, points | step | inference | live MiB | process MiB |\n" in text
    assert "| **wasi_0.8** | 0.8906 ± 0.0021 (n=5) | -1.00 [-1.20, -0.80] | 1.40× | 1.60× | 500 | 1000 |\n" in text
    assert "lora_r8" not in text and "LoRA" not in text and stale_documents(tmp_path) == {}
    document.write_text(text.replace("of vanilla, wasi_0.8", "of other"))
    with pytest.raises(UserError, match="^brief=t of other: allowed is rows of results/t: "):
        update(tmp_path)
    document.write_text(text.replace("<!-- /brief -->", "<!-- /table -->"))
    with pytest.raises(UserError, match="^brief=t of vanilla, wasi_0.8: allowed is followed by <!-- /brief -->"):
        update(tmp_path)


@pytest.mark.parametrize(("kind", "where"), [("table", 0), ("brief", 1)])
def test_a_document_explains_a_column_once(kind, where, tmp_path, kept):
    _document(tmp_path)
    document = tmp_path / "README.md"
    document.write_text(f"<!-- {kind}: t of vanilla -->\n<!-- /{kind} -->\n" + document.read_text())
    update(tmp_path)
    parts = document.read_text().split(f"<!-- /{kind} -->")
    for meaning in ("Accuracy: mean ± ", "Step and inference: ", "process: resident peak"):
        assert [meaning in part for part in parts[:2]] == [where == 0, where == 1]
    assert stale_documents(tmp_path) == {}


def test_a_document_can_have_some_of_the_rows(tmp_path, kept):
    _document(tmp_path)
    document = tmp_path / "README.md"
    document.write_text(document.read_text().replace("table: t", "table: t of vanilla, wasi_0.8"))
    update(tmp_path)
    text = document.read_text()
    assert "| vanilla |" in text.replace("**", "") and "| wasi_0.8 |" in text.replace("**", "")
    assert "| lora_r8 |" not in text.replace("**", "") and "lean LoRA" in text  # sentences are of all rows
    _change(kept / "job5.json", machine={"processor": "of lora_r8"})
    update(tmp_path)
    assert "of lora_r8" not in document.read_text()  # the machines are those of the rows shown
    document.write_text(text.replace("of vanilla, wasi_0.8", "of vanilla, other"))
    with pytest.raises(UserError, match="table=t of vanilla, other: .*lora_r8"):
        update(tmp_path)


def test_markers_without_end_or_results_are_refused(tmp_path, kept):
    _document(tmp_path, end="")
    with pytest.raises(UserError, match="table=t: allowed is followed by"):
        stale_documents(tmp_path)
    (tmp_path / "README.md").write_text("<!-- table: nope -->\n<!-- /table -->\n")
    with pytest.raises(UserError, match="table=nope"):
        stale_documents(tmp_path)


def test_the_command_checks_and_refuses_in_one_line(tmp_path, kept):
    def tables(*words):
        command = [sys.executable, "-m", "wasi.results", "tables", "--root", str(tmp_path), *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    _document(tmp_path)
    before = (tmp_path / "README.md").read_text()
    checked = tables("--check")
    assert (checked.returncode, checked.stderr.count("\n")) == (1, 1) and "README.md" in checked.stderr
    assert (tmp_path / "README.md").read_text() == before
    assert tables().returncode == 0 and tables("--check").returncode == 0
    _change(kept / "job0.json", git_dirty=True)
    refused = tables()
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith("error: table=t: allowed is ")


def test_the_documents_here_are_up_to_date():
    assert stale_documents(ROOT) == {}


def test_a_sweep_may_be_named_without_multirun(tmp_path, monkeypatch):
    fakes.write(tmp_path / "multirun" / "sweep", {"val/acc": 0.5}, fakes.config())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["results", "collect", "sweep", "--into", "kept"])
    assert main() == 0 and (tmp_path / "kept" / "job0.json").is_file()
