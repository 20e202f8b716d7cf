"""What the first table is to tell: what tuning chose, hardware apart, and whether the subspace step is needed."""

import copy

import pytest

from tests.bench import jobs as benchmarks
from tests.report import fakes
from wasi.report.blocks import blocks_of
from wasi.report.comparison import Comparison
from wasi.report.load import read_runs
from wasi.report.origins import one_machine, was_busy
from wasi.report.ranking import front_of
from wasi.report.subspace_ablation import ablation_sentences
from wasi.report.write import write_report
from wasi.runs.tuned_row import TunedRow
from wasi.runs.tuning import Row
from wasi.runs.tuning_file import not_chosen, read_tuning, write_tuning

PC = copy.deepcopy(fakes.PROVENANCE) | {"machine": {"processor": "EPYC", "architecture": "x86_64", "hostname": "pc"}}
PC_TIMES = {"machine": PC["machine"], "threads": PC["threads"]}


def add(folder, name, epsilon, seed, acc, options=None, **fields):
    return fakes.write(folder, fakes.metrics(acc), fakes.config(name, epsilon, seed, options), **fields)


def rows_of(folder, update, accuracies, lr=0.05):
    for seed, acc in enumerate(accuracies):
        options = {"method.update": update, "optimizer.lr": lr}
        add(folder, "wasi", 0.8, seed, acc, options)


@pytest.mark.parametrize(
    ("without", "lr", "answer"),
    [
        ((0.80, 0.82, 0.81), 0.05, "yes, it is better with it; without it (method.update=none) accuracy changes by -9"),
        ((0.95, 0.97, 0.96), 0.02, "no, it is better without it; without it (method.update=none) accuracy changes by"),
        ((0.91, 0.89, 0.90), 0.05, "these seeds show no need of it"),
        ((0.91,), 0.05, "one seed cannot tell"),
    ],
)
def test_whether_the_subspace_iteration_is_needed_is_answered_whatever_the_answer(without, lr, answer, tmp_path):
    rows_of(tmp_path, "subspace", (0.90, 0.901, 0.899))
    rows_of(tmp_path, "none", without, lr)
    (block,) = blocks_of(read_runs([tmp_path])[0])
    (sentence,) = ablation_sentences(block.groups)
    assert sentence.startswith("Is the subspace iteration needed at all? wasi 0.8, SGD (lr 0.05") and answer in sentence
    assert ("without it 0.02" in sentence) == (lr == 0.02) and f"(n={len(without)})" in sentence
    printed = " ".join(write_report([tmp_path]).split())
    assert sentence in printed and "needed at all" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(("name", "options", "is_judged"), [
    ("wasi", {"optimizer._target_": "torch.optim.AdamW"}, False),
    ("wasi", {"optimizer.momentum": 0.9}, False),
    ("wasi", {"optimizer._target_": "wasi.training.swan.Swan"}, True),
    ("wsi", {"optimizer._target_": "wasi.training.swan.Swan"}, False),
])  # fmt: skip
def test_nothing_is_said_of_a_subspace_iteration_that_the_optimizer_does_not_make(name, options, is_judged, tmp_path):
    inputs = {"method.activations.epsilon": 0.9} if name == "wasi" else {}
    for seed, noise in enumerate((0.001, -0.001, 0.002)):
        for update in ("subspace", "none"):
            add(tmp_path, name, 0.8, seed, 0.9 + noise, {"method.update": update, **inputs, **options})
    (block,) = blocks_of(read_runs([tmp_path])[0])
    assert bool(ablation_sentences(block.groups)) == is_judged


def test_answers_about_rows_of_one_name_tell_them_apart(tmp_path):
    for init, without in (("svd", 0.8), ("random", 0.7)):
        for update, accuracy in (("subspace", 0.9), ("none", without)):
            for seed, noise in enumerate((0.001, -0.001, 0.002)):
                options = {"method.update": update, "method.init": init}
                add(tmp_path, "wasi", 0.8, seed, accuracy + (noise if update == "none" else 0.0), options)
    (block,) = blocks_of(read_runs([tmp_path])[0])
    output = [sentence.partition("? ")[2].partition(" (lr")[0] for sentence in ablation_sentences(block.groups)]
    assert sorted(output) == ["wasi 0.8, SGD, method.init=random", "wasi 0.8, SGD, method.init=svd"]


def test_the_words_above_a_table_tell_rows_of_one_threshold_apart(tmp_path):
    for seed, noise in enumerate((0.001, -0.001)):
        add(tmp_path, "vanilla", None, seed, 0.9 + noise)
        for lr, acc in ((0.05, 0.8), (0.02, 0.7)):
            add(tmp_path, "wasi", 0.8, seed, acc, {"optimizer.lr": lr})
    write_report([tmp_path])
    lines = (tmp_path / "report.md").read_text().splitlines()
    (sentence,) = [line for line in lines if line.startswith("Accuracy below")]
    assert sentence == (
        "Accuracy below vanilla's [95 % interval]: “wasi 0.8, lr=0.02” (−20.00 points [−21.27, −18.73]) and "
        "“wasi 0.8, lr=0.05” (−10.00 points [−11.27, −8.73])."
    )


def test_without_both_rows_there_is_no_answer(tmp_path):
    rows_of(tmp_path, "none", (0.9, 0.8))
    add(tmp_path, "wasi", 0.6, 0, 0.7, {"method.update": "subspace"})
    (block,) = blocks_of(read_runs([tmp_path])[0])
    assert ablation_sentences(block.groups) == []


def test_one_run_on_two_machines_is_two_rows_and_neither_is_left_out(tmp_path):
    for provenance in (fakes.PROVENANCE, PC):
        for seed in (0, 1):
            add(tmp_path, "vanilla", None, seed, 0.8, provenance=provenance)
            add(tmp_path, "wasi", 0.8, seed, 0.7, provenance=provenance)
    (block,) = blocks_of(read_runs([tmp_path])[0])
    assert [len(group.runs) for group in block.groups] == [2] * 4 and not block.alike
    for comparison in block.comparisons:
        assert comparison.baseline.hardware == comparison.group.hardware
    printed = write_report([tmp_path])
    assert printed.count("EPYC, 4 threads") >= 2 and "machine" in printed


def test_times_measured_later_are_those_of_the_machine_that_measured(tmp_path):
    """Trained on a busy Pi without measuring, then measured on a PC that had nothing else to do."""
    later = copy.deepcopy(fakes.PROVENANCE) | {"cpu_wait_share": 0.5, "measured": {"start": "later", **PC_TIMES}}
    for seed, provenance in enumerate((PC, later, fakes.PROVENANCE)):
        add(tmp_path, "vanilla", None, seed, 0.8, provenance=provenance)
    runs = read_runs([tmp_path])[0]
    (block,) = blocks_of(runs)
    assert [group.seeds for group in block.groups] == [[2], [0, 1]]
    assert not was_busy(runs)


def test_benchmarks_on_two_gpus_of_one_machine_are_two_rows(tmp_path):
    for place, gpu in enumerate(("H100", "A100")):
        one = benchmarks.content(fakes.config("wasi", 0.8), benchmarks.metrics(50 + place, 5, 100), None)
        one["fingerprint"] = "same"
        one["provenance"] |= {"device": "cuda:0", "cuda": gpu}
        (tmp_path / gpu).mkdir()
        benchmarks.write_sweep(tmp_path / gpu, [one])
    (block,) = blocks_of(read_runs([tmp_path])[0])
    assert [group.hardware.partition(",")[0] for group in block.groups] == ["A100", "H100"]
    assert front_of(block.comparisons) == [False, False]


def test_times_of_a_gpu_and_of_its_hosts_processor_make_no_front(tmp_path):
    for name, device in (("vanilla", "cpu"), ("wasi", "cuda")):
        provenance = copy.deepcopy(fakes.PROVENANCE) | {"device": device}
        add(tmp_path, name, 0.8, 0, 0.8, provenance=provenance)
    runs = read_runs([tmp_path])[0]
    assert not one_machine(runs) and all(one_machine([run]) for run in runs)
    (block,) = blocks_of(runs)
    assert front_of(block.comparisons) == [False, False]


@pytest.mark.parametrize("measured", [True, False])
def test_machines_of_one_kind_and_runs_without_times_are_one_row(measured, tmp_path):
    twin = copy.deepcopy(fakes.PROVENANCE)
    twin["machine"]["hostname"] = "pi2"
    other = {} if measured else {"time/train_step_ms_p50": None, "time/inference_ms_p50": None}
    for seed, provenance in enumerate((fakes.PROVENANCE, twin if measured else PC)):
        numbers = fakes.metrics(0.8, **(other if seed else {}))
        fakes.write(tmp_path, numbers, fakes.config(seed=seed), provenance=provenance)
    (block,) = blocks_of(read_runs([tmp_path])[0])
    assert [len(group.runs) for group in block.groups] == [2]


@pytest.mark.parametrize(("accuracies", "edge"), [((0.1, 0.3, 0.2), False), ((0.1, 0.2, 0.3), True)])
def test_a_tuned_row_shows_its_value_and_the_edge_loudly_on_top(accuracies, edge, tmp_path):
    grid = [{"optimizer.lr": lr} for lr in (0.01, 0.02, 0.05)]
    jobs = [
        add(tmp_path, "vanilla", None, 0, acc, {"optimizer.lr": point["optimizer.lr"]}).parent.name
        for point, acc in zip(grid, accuracies, strict=True)
    ]
    found = TunedRow(Row("vanilla", {}, grid), jobs, [(acc,) for acc in accuracies], ["completed"] * 3)
    write_tuning(tmp_path, "0", [found], ["val/acc"])
    printed = write_report([tmp_path])
    text = (tmp_path / "report.md").read_text()
    assert "tuned" in printed and f"lr={0.05 if edge else 0.02}" in printed
    assert ("(on the edge)" in printed) == edge
    assert ("**WARNING" in text.split("## ")[0]) == edge


def test_what_an_earlier_grid_tried_is_no_row(tmp_path):
    for jobs in (["a", "b"], ["c"]):
        grid = [{"lr": place} for place, _ in enumerate(jobs)]
        row = TunedRow(Row("wasi", {}, grid), jobs, [(0.5 - point["lr"],) for point in grid], ["completed"] * len(jobs))
        write_tuning(tmp_path, "0", [row], ["val/acc"])
    assert not_chosen(tmp_path) == {"a", "b"}


def test_rows_that_another_command_tuned_stay_with_all_their_seeds(tmp_path):
    """Under one name first vanilla, by accuracy, then wasi, by loss; vanilla's name would be another beside wasi."""
    grid = [{"optimizer.lr": lr} for lr in (0.01, 0.02, 0.05)]
    for name, objective, accuracies in (("vanilla", "val/acc", (0.7, 0.9, 0.8)), ("wasi", "val/loss", (0.8, 0.9, 0.7))):
        paths = [add(tmp_path, name, 0.8, 0, acc, point) for point, acc in zip(grid, accuracies, strict=True)]
        values = [(acc if objective == "val/acc" else 1 - acc,) for acc in accuracies]
        row = Row(name, {"method": name, "tune.lr": "[0.01,0.02,0.05]"}, grid)
        found = TunedRow(row, [path.parent.name for path in paths], values, ["completed"] * 3, [objective])
        write_tuning(tmp_path, "0", [found], [objective])
        add(tmp_path, name, 0.8, 1, 0.9, {"optimizer.lr": 0.02})
    (block,) = blocks_of(read_runs([tmp_path])[0])
    assert sorted((group.method, len(group.runs)) for group in block.groups) == [("vanilla", 2), ("wasi", 2)]
    assert len(not_chosen(tmp_path)) == 4
    write_report([tmp_path])
    text = (tmp_path / "report.md").read_text()
    assert "optimizer.lr=0.02: 0.9000" in text and "optimizer.lr=0.02: 0.1000" in text


def test_a_row_tuned_again_takes_the_place_of_its_earlier_self(tmp_path):
    first = {"method": "wasi", "tune.lr": "[1]", "logger": "none", "sweep": "a"}
    for name, overrides, job in (
        ("wasi", first, "a"),
        ("only one", {"+tune.lr": "[2]", "sweep": "a", "method": "wasi", "train.rerun": "true"}, "b"),
        ("other", {**first, "train.epochs": "2"}, "c"),
    ):
        row = TunedRow(Row(name, overrides, [{"lr": 1}]), [job], [(0.5,)], ["completed"])
        write_tuning(tmp_path, "0", [row], ["val/acc"])
    assert not_chosen(tmp_path) == {"a"}
    assert [row["row"] for row in read_tuning(tmp_path)["rows"]] == ["only one", "other"]
    write_tuning(tmp_path, "0", [], ["val/acc"])  # of a command that tunes nothing
    assert not_chosen(tmp_path) == {"a"} and len(read_tuning(tmp_path)["rows"]) == 2


@pytest.mark.parametrize("all_in_turns", [True, False])
def test_the_front_is_of_ratios_measured_in_turns_where_every_row_has_one(tmp_path, monkeypatch, all_in_turns):
    """The machine was slower while the first was timed: by itself it is the slower one, beside vanilla the quicker."""
    rows = {"vanilla": (0.95, 100), "wasi": (0.9, 60), "lora": (0.8, 50)}
    for name, (accuracy, ms) in rows.items():
        found = fakes.metrics(accuracy) | {"time/train_step_ms_p50": ms}
        fakes.write(tmp_path, found, fakes.config(name, 0.8 if name == "wasi" else None))
    ratios = {"wasi": 2.0} | ({"lora": 1.5} if all_in_turns else {})

    def interval(self, cost):
        ratio = ratios.get(self.group.method)
        return None if ratio is None else {"p50": ratio, "low": ratio, "high": ratio}

    monkeypatch.setattr(Comparison, "in_turns", interval)
    (block,) = blocks_of(read_runs([tmp_path])[0])
    marks = dict(zip((group.method for group in block.groups), front_of(block.comparisons), strict=True))
    assert marks == {"vanilla": True, "wasi": True, "lora": not all_in_turns}
