import copy
import csv
import io
import os
import re
import sys

import pytest

from tests.bench import jobs as benchmarks
from tests.report import fakes
from wasi.errors import UserError
from wasi.report.markdown import escape
from wasi.report.write import file_part, write_report


def rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_the_whole_report_of_a_sweep(tmp_path):
    fakes.sweep(tmp_path, seeds=(0, 1), epsilons=(0.6, 0.8))
    printed = write_report([tmp_path])

    runs, groups = rows(tmp_path / "report.csv"), rows(tmp_path / "report_groups.csv")
    assert len(runs) == 2 * 5 and len(groups) == 5
    assert {row["weight_epsilon"] for row in runs if row["method"] == "vanilla"} == {""}
    assert {row["activation_epsilon"] for row in runs if row["method"] == "svd_llm"} == {""}
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    (figure,) = re.findall(r"!\[.*\]\((.*)\)", text)
    assert figure == "accuracy_vs_cost_vit_micro_digits.png" and (tmp_path / figure).is_file()
    assert figure in printed and "vit_micro on digits" in printed
    assert "commit 0123456789, torch 2.8.0, Cortex-A76 aarch64 pi, 4 threads" in text
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]  # no temporary file


def test_numbers_in_the_csv_are_those_of_the_file(tmp_path):
    acc, peak = 0.1 + 0.2, 1234.5678901234567
    fakes.write(tmp_path, {"val/acc": acc, "memory/train_peak_mib": peak, "new/metric": 0.0}, fakes.config())
    write_report([tmp_path])
    (row,) = rows(tmp_path / "report.csv")
    assert float(row["val/acc"]) == acc and float(row["memory/train_peak_mib"]) == peak
    assert float(row["new/metric"]) == 0.0
    assert row.get("time/train_step_ms_p50", "") == ""


def test_lines_of_the_csv_files_are_told_apart_by_recipe_and_by_every_option(tmp_path):
    for recipe, schedule in (("steady", "constant"), ("falling", "cosine")):
        options = {"scheduler": {"_target_": f"wasi.training.schedule.{schedule}", "warmup_epochs": 0}}
        fakes.write(tmp_path, fakes.metrics(0.8), fakes.config("wasi", 0.8, 0, options) | {"recipe": recipe})
    write_report([tmp_path])
    for name in ("report.csv", "report_groups.csv"):
        found = {row["recipe"]: row["scheduler._target_"].rpartition(".")[2] for row in rows(tmp_path / name)}
        assert found == {"steady": "constant", "falling": "cosine"}
    assert "method._target_" not in rows(tmp_path / "report.csv")[0]  # the method's name has a column


def test_a_benchmark_that_was_never_trained_has_no_number_of_runs(tmp_path):
    sides = benchmarks.metrics(50, 5, 100), benchmarks.metrics(100, 10, 400)
    benchmarks.write_sweep(tmp_path, [benchmarks.content(benchmarks.config("wasi", 0.8), *sides)])
    write_report([tmp_path])
    assert {row["n"] for row in rows(tmp_path / "report_groups.csv")} == {""}


def test_runs_without_an_ending_worth_averaging_are_listed(tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config())
    error = "ValueError: first\nsecond"
    fakes.write(tmp_path, {}, fakes.config("wasi", 0.4), status="failed", error=error)
    fakes.write(tmp_path, fakes.metrics(0.1), fakes.config("wasi", 0.6), status="diverged", error="diverged: nan")
    fakes.write(tmp_path, {}, fakes.config("wasi", 0.8), status="running")
    printed = write_report([tmp_path])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for line in (
        "failed: wasi 0.4, vit_micro on digits, seed 0: ValueError: first second (job1)",
        "diverged: wasi 0.6, vit_micro on digits, seed 0: nan (job2)",
        "running: wasi 0.8, vit_micro on digits, seed 0: still at work",
    ):
        assert line in printed and escape(line) in text
    assert len(rows(tmp_path / "report_groups.csv")) == 1
    statuses = [row["status"] for row in rows(tmp_path / "report.csv")]
    assert statuses == ["completed", "failed", "diverged", "running"]


def test_failures_alone_make_a_report_without_a_table(tmp_path):
    fakes.write(tmp_path, {}, fakes.config("wasi", 0.4), status="failed", error="boom")
    printed = write_report([tmp_path])
    assert "no completed run" in printed and "boom" in printed
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "boom" in text and "**No run was completed, so there is nothing to compare yet.**" in text
    assert "## What the columns mean" not in text and "## What the methods do" not in text


def test_what_stands_in_a_table_is_explained_below_it_and_nothing_else(tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.9, 100.0), fakes.config())
    fakes.write(tmp_path, fakes.metrics(0.8, 50.0), fakes.config("wasi", 0.8))
    write_report([tmp_path])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    header = next(line for line in text.splitlines() if line.startswith("| method"))
    explained = [name for names in re.findall(r"^- \*\*(.*?)\*\*: ", text, re.MULTILINE) for name in names.split(", ")]
    shown = [cell.strip() for cell in header.strip("|").split("|")]
    assert {"method", "n", "Δ vanilla", "train MiB", "Pareto"} <= set(shown) <= set(explained)
    assert "tuned" not in explained and "machine" not in explained and explained[-2:] == ["vanilla", "wasi"]
    assert "**Compared with vanilla, wasi 0.8 takes 50% less peak memory in a training step (2.00×)" in text


def test_a_failed_run_may_lack_half_its_configuration(tmp_path):
    fakes.write(tmp_path, {}, {"seed": 3, "method": {"name": "wasi"}}, status="failed", error="boom")
    assert "failed: wasi, ? on ?, seed 3: boom" in write_report([tmp_path])


def test_everything_goes_into_the_first_folder(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    fakes.write(first, fakes.metrics(0.8), fakes.config())
    fakes.write(second, fakes.metrics(0.7, 0.5), fakes.config("wasi", 0.8))
    write_report([first, second])
    assert len(rows(first / "report_groups.csv")) == 2
    assert [path.name for path in second.iterdir()] == ["job0"]


def test_mixed_provenance_is_flagged(tmp_path):
    other = copy.deepcopy(fakes.PROVENANCE) | {"git_commit": "fedcba9876543210", "git_dirty": True}
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config())
    fakes.write(tmp_path, fakes.metrics(0.7), fakes.config("wasi", 0.8), provenance=other)
    printed = write_report([tmp_path])
    assert "mixed commits: commit 0123456789 | commit fedcba9876 (dirty)" in printed
    assert "dirty: some code differed from its commit" in printed
    assert "**mixed commits" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_without_provenance_that_is_what_is_said(tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config(), provenance={})
    assert "not recorded" in write_report([tmp_path])


def test_a_terminal_without_unicode_gets_ascii(tmp_path, monkeypatch):
    fakes.sweep(tmp_path, seeds=(0, 1), epsilons=(0.8,), names=("wasi",))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    text = write_report([tmp_path])
    assert text.isascii() and "+-" in text


def test_a_folder_that_cannot_be_written_is_a_users_mistake(tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config())
    (tmp_path / "report.csv").mkdir()
    with pytest.raises(UserError, match="a folder that can be written into"):
        write_report([tmp_path])


@pytest.mark.parametrize("options", [{"model.weights": "surrogate"}, {"dataset.name": "synthetic"}])
def test_accuracy_that_means_nothing_is_left_out_and_said_so(tmp_path, options):
    for seed in (0, 1):
        fakes.write(tmp_path, fakes.metrics(0.8125 + seed / 64), fakes.config(seed=seed, options=options))
        fakes.write(tmp_path, fakes.metrics(0.5625, 0.5), fakes.config("wasi", 0.8, seed, options))
    printed = write_report([tmp_path])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "**" in text and "accuracy says nothing. None is shown, and none may be quoted.**" in text
    for output in (printed, text):
        assert "none may be quoted" in " ".join(output.split())
        assert "Accuracy " not in output and "Pareto-optimal in" not in output
        assert not re.search(r"0\.8203|0\.5625|0\.2578", output)  # the means and their difference
    assert not list(tmp_path.glob("accuracy_vs_cost*"))
    reasons = {row["accuracy not to be quoted"] for row in rows(tmp_path / "report_groups.csv")}
    assert len(reasons) == 1 and reasons <= {"surrogate weights", "synthetic images"}


def test_without_measurements_there_is_no_figure(tmp_path):
    fakes.write(tmp_path, {"val/acc": 0.8}, fakes.config())
    write_report([tmp_path])
    assert not list(tmp_path.glob("*.png"))
    assert "![" not in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("tested", [True, False])
def test_the_accuracy_that_is_quoted_is_named(tmp_path, tested):
    title, column = ("test acc", "test/acc") if tested else ("val acc", "val/acc")
    for name in ("vanilla", "lora"):
        numbers = fakes.metrics(0.8, **({"test/acc": 0.7} if tested else {}))
        fakes.write(tmp_path, numbers, fakes.config(name))
    printed = write_report([tmp_path])
    assert title in printed and f"| {title} |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    means = {row[f"{column} mean"] for row in rows(tmp_path / "report_groups.csv")}
    assert means == {"0.7" if tested else "0.8"}


@pytest.mark.parametrize(("balanced", "shown"), [(0.5, True), (0.945, False)])
def test_an_imbalanced_data_set_does_not_look_fine(tmp_path, balanced, shown):
    numbers = fakes.metrics(0.9, **{"test/acc": 0.95, "test/balanced_acc": balanced})
    fakes.write(tmp_path, numbers, fakes.config())
    printed = write_report([tmp_path])
    assert ("  balanced" in printed) == shown and (f"{balanced:.4f}" in printed) == shown


@pytest.mark.parametrize("source", ["train", "test"])
def test_a_choice_made_on_test_images_is_told_loudly(source, tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.9), fakes.config(options={"dataset.val_source": source}))
    printed = write_report([tmp_path])
    assert ("Nothing is held out" in printed) == (source == "test")
    assert ("**Nothing is held out" in (tmp_path / "report.md").read_text(encoding="utf-8")) == (source == "test")


def test_long_names_of_data_sets_have_figures_of_their_own(tmp_path):
    root = "/".join(f"a folder with a rather long name, number {number}" for number in range(8))
    for end in "xy":
        options = {"dataset.name": "image_folder", "dataset.root": root + end}
        fakes.write(tmp_path, fakes.metrics(0.9), fakes.config(options=options))
    write_report([tmp_path])
    assert len(list(tmp_path.glob("accuracy_vs_cost_*.png"))) == 2


def test_labels_that_differ_in_other_scripts_have_files_of_their_own():
    labels = ("image_folder (学)", "image_folder (校)", "image_folder ()", "学", "a+b", "a b")
    names = {file_part(label) for label in labels}
    assert len(names) == len(labels) and all(re.fullmatch("[A-Za-z0-9._-]+", name) for name in names)


def test_an_experiment_in_a_folder_is_a_part_of_a_files_name(tmp_path):
    provenance = fakes.PROVENANCE | {"experiment": "mine/try1"}
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config(), provenance=provenance)
    write_report([tmp_path])
    (figure,) = tmp_path.glob("*accuracy_vs_cost*.png")
    assert figure.name == "mine_try1_accuracy_vs_cost_vit_micro_digits.png"


def test_a_folder_whose_name_is_not_utf_8_is_reported_on(tmp_path):
    folder = tmp_path / os.fsdecode(b"photos\xff")
    fakes.write(folder, {"val/acc": 0.5, "memory/train_peak_mib": 5.0}, fakes.config())
    write_report([tmp_path])
    assert r"photos\udcff" in (tmp_path / "report.csv").read_text(encoding="utf-8")
