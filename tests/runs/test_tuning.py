"""Which jobs a tuned sweep has, what it chooses, and that its first stage is never trained twice."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from wasi.config.naming import job_folder
from wasi.config.validate import validate
from wasi.errors import UserError
from wasi.report.tuned import tuning_lines
from wasi.results.collect import collect
from wasi.runs.lock import folder_lock
from wasi.runs.plan import read_plan
from wasi.runs.result import write_json
from wasi.runs.search import Range, Space
from wasi.runs.tuned_row import TunedRow, tuned_row
from wasi.runs.tuning import Plan, Row, grid_of, rates_asked
from wasi.runs.tuning_file import not_chosen

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    *("model=vit_micro", "model.weights=random", "logger=none", "train.measure=false"),
    *("dataset=digits", "dataset.train_size=64", "dataset.val_size=32", "dataset.batch_size=32", "train.epochs=1"),
    *("device=cpu", "device.num_threads=1"),
)


def tune(lr=None, optimizer=None, **options):
    return OmegaConf.create({"lr": lr, "optimizer": optimizer, "options": options})


def test_a_grid_is_a_product_with_rates_of_their_own_for_each_optimizer():
    assert grid_of(tune(), {}) == [{}]
    assert grid_of(tune([1, 2]), {}) == [{"optimizer.lr": 1}, {"optimizer.lr": 2}]
    found = grid_of(tune({"sgd": [0.1], "adamw": [1e-4, 1e-3]}, ["sgd", "adamw"], **{"rank.x": ["a"]}), {})
    assert found == [
        {"optimizer": "sgd", "optimizer.lr": 0.1, "rank.x": "a"},
        {"optimizer": "adamw", "optimizer.lr": 1e-4, "rank.x": "a"},
        {"optimizer": "adamw", "optimizer.lr": 1e-3, "rank.x": "a"},
    ]


def test_what_a_command_line_decides_is_not_tuned():
    given = tune([1, 2], ["sgd", "adamw"], **{"rank.x": [3, 4]})
    assert grid_of(given, {"optimizer.lr": "7", "optimizer": "sgd"}) == [{"rank.x": 3}, {"rank.x": 4}]


RATES = {"sgd": [0.1, 0.2], "adamw": [1e-4, 1e-3]}
KNOWN = ("sgd", "adamw", "swan")


@pytest.mark.parametrize(
    ("optimizers", "overrides", "searched", "rates"),
    [
        (None, {"optimizer": "sgd"}, {}, RATES["sgd"]),
        (["sgd", "adamw"], {"optimizer": "sgd"}, {}, RATES["sgd"]),  # a job's own choice wins
        (None, {}, {}, RATES["sgd"]),  # the default's, an experiment's or a recipe's
        (["sgd", "adamw"], {}, {}, RATES),
        (["adamw"], {}, {}, {"adamw": RATES["adamw"]}),  # an experiment may have rates of more
        (None, {}, {"optimizer": ["sgd", "adamw"]}, RATES),
        (["swan"], {"optimizer.lr": "1e-3"}, {}, RATES),
    ],
)
def test_a_row_of_one_optimizer_is_tuned_over_the_rates_of_that_one(optimizers, overrides, searched, rates):
    asked = {"lr": RATES, "optimizer": optimizers, "options": {}}
    assert rates_asked(asked, overrides, "sgd", KNOWN, searched) == rates


def test_an_optimizer_without_rates_is_refused_unless_its_rate_is_given():
    asked = {"lr": RATES, "optimizer": None, "options": {}}
    with pytest.raises(UserError, match=r"tune\.lr=.*a mapping that has optimizer=swan"):
        rates_asked(asked, {"optimizer": "swan"}, "swan", KNOWN)
    rates_asked(asked, {"optimizer": "swan", "optimizer.lr": "1e-3"}, "swan", KNOWN)
    rates_asked(asked, {"optimizer": "swan"}, "swan", KNOWN, searched={"optimizer.lr": [0.1]})


@pytest.mark.parametrize(
    ("rates", "tried", "searched", "message"),
    [
        ({"sgd": [0.1]}, ["sgd", "adamw"], {}, "a mapping that has optimizer=adamw"),
        ({"sgd": [0.1]}, None, {"optimizer": ["sgd", "adamw"]}, "a mapping that has optimizer=adamw"),
        ({"sdg": [0.1], "adamw": [0.1]}, ["sgd", "adamw"], {}, "optimizers, which are sgd, adamw, swan"),
        ({"sdg": [0.1], "sgd": [0.1]}, None, {}, "optimizers, which are sgd, adamw, swan"),
    ],
)
def test_every_optimizer_that_is_tried_has_rates_and_every_key_is_an_optimizer(rates, tried, searched, message):
    with pytest.raises(UserError, match=rf"^tune\.lr=.*{message}"):
        rates_asked({"lr": rates, "optimizer": tried, "options": {}}, {}, "sgd", KNOWN, searched)


def test_the_jobs_of_both_stages():
    jobs = [["method=a", "seed=1"], ["method=a", "seed=2"], ["method=b", "seed=1"], ["method=b", "seed=2"]]
    grid = [{"lr": 1e-05}, {"lr": 2}]
    plan = Plan.of(jobs, lambda row: replace(row, grid=grid if row.name == "a" else [{}]))
    first = plan.first_stage()
    assert first == [["method=a", "lr=1e-05", "seed=1"], ["method=a", "lr=2", "seed=1"]]
    (row,) = [TunedRow(plan.rows[0], ["x", "y"], [(0.1,), (0.2,)], ["completed"] * 2)]
    chosen = (["method=a", "lr=2"], ["method=b"])
    both = [[*words, f"seed={seed}"] for words in chosen for seed in (1, 2)]
    assert plan.second_stage({row.row.name: row.choices}) == both
    assert plan.most_jobs(trials=0, objectives=1) == len({*map(tuple, [*first, *both])}) == 5
    assert plan.most_jobs(trials=0, objectives=2) == 6  # if both points are on the Pareto front
    searched = replace(plan, rows=[replace(plan.rows[0], grid=[], space=Space({"optimizer.lr": Range(0.1, 1.0)}))])
    assert searched.most_jobs(trials=7, objectives=1) == 8
    failed = TunedRow(plan.rows[0], ["x", "y"], [None, None], ["diverged"] * 2)
    assert plan.second_stage({failed.row.name: failed.choices}) == [["method=b", "seed=1"], ["method=b", "seed=2"]]


def test_the_only_row_is_named_in_the_order_of_its_words():
    """A search finds its earlier trials by the name: it must not depend on how strings are hashed."""
    for words in (["recipe=r", "method=m"], ["method=m", "recipe=r"]):
        (row,) = Plan.of([[*words, "rank=eps_0.8"]], lambda row: row).rows
        assert row.name == " ".join(word.partition("=")[2] for word in words)


@pytest.mark.parametrize(
    ("accuracies", "choice", "edge"),
    [((0.1, 0.3, 0.2), 2, []), ((0.3, 0.3, 0.2), 1, ["lr"]), ((None, 0.1, 0.2), 3, ["lr"])],
)
def test_a_choice_and_the_edge_of_its_grid(accuracies, choice, edge):
    row = Row("wasi", {}, [{"lr": 1}, {"lr": 2}, {"lr": 3}])
    found = TunedRow(row, ["x", "y", "z"], [a and (a,) for a in accuracies], ["completed"] * 3)
    assert found.choices == [{"lr": choice}] and found.edges == [edge]
    assert any("EDGE" in line for line in found.lines()) == bool(edge)


def test_the_edge_is_that_of_the_rates_of_the_chosen_optimizer():
    points = [{"o": "sgd", "lr": 0.1}, *({"o": "adamw", "lr": rate} for rate in (1e-5, 1e-4, 1e-3))]
    row = Row("", {}, points)
    assert TunedRow(row, list("wxyz"), [(0.1,), (0.2,), (0.3,), (0.2,)], [""] * 4).edges == [[]]
    assert TunedRow(row, list("wxyz"), [(0.1,), (0.4,), (0.3,), (0.2,)], [""] * 4).edges == [["lr"]]


@pytest.mark.parametrize(
    ("values", "has_edge"),
    [
        *(([1, 2], True), ([0.1, 0.2, 0.3], True)),
        *((["svd", "output"], False), ([False, True], False), ([None, 1, 2], False)),
    ],
)
def test_only_numbers_have_an_edge(values, has_edge):
    row = Row("", {}, [{"option": value} for value in values])
    accuracies = [(place / 10,) for place in range(len(values))]
    found = TunedRow(row, list("xyz")[: len(values)], accuracies, ["completed"] * len(values))
    assert found.choices == [{"option": values[-1]}] and found.edges == [["option"] if has_edge else []]


def job_return(folder, accuracy, fingerprint="0123456789abcdef"):
    """What Hydra returns of a job that is completed in `folder`."""
    folder.mkdir()
    content = {"status": "completed", "fingerprint": fingerprint, "metrics": {"val/acc": accuracy}}
    write_json(folder / "result.json", content)
    runtime = SimpleNamespace(output_dir=str(folder))
    return SimpleNamespace(hydra_cfg=SimpleNamespace(hydra=SimpleNamespace(runtime=runtime)))


def test_the_result_of_another_configuration_in_a_point_s_folder_is_not_chosen(tmp_path):
    jobs = [job_return(tmp_path / name, accuracy) for name, accuracy in (("a-0123456789", 0.2), ("b-f123456789", 0.9))]
    found = tuned_row(Row("wasi", {}, [{"lr": 1}, {"lr": 2}]), jobs, ["val/acc"])
    assert found.values == [(0.2,), None] and found.choices == [{"lr": 1}]


def train(*words, cwd):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words, *TINY],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("words", [("tune.lr=[0.1,0.2]",), ("-m", "tune.lr=[0.1,0.2]", "seed=1,2")])
def test_without_its_sweeper_a_grid_is_refused(words, tmp_path):
    process = train(*words, cwd=tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and err.count("\n") == 1
    assert err.startswith("error: tune.lr=[0.1,0.2]: allowed is for a sweep with hydra/sweeper=tuned or optuna only")


@pytest.mark.parametrize("rows", ["method=vanilla,wasi", "recipe=vanilla,lora_r8"])
def test_a_grid_of_values_that_are_not_allowed_trains_nothing(rows, tmp_path):
    words = ("hydra/sweeper=tuned", "sweep=t", rows, "tune.lr=[-1]", "sweep.fail_fast=1")
    process = train("-m", *words, cwd=tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and err.count("\n") == 1
    assert err.startswith("error: tune.lr=[-1]: allowed is a list of numbers above 0")
    assert list(tmp_path.iterdir()) == []


def test_killed_between_its_stages_a_tuned_sweep_goes_on_and_trains_nothing_twice(tmp_path):
    words = ("-m", "hydra/sweeper=tuned", "sweep=t", "method=vanilla", "tune.lr=[0.01,0.05]", "seed=1,2,3")
    sweep = tmp_path / "multirun" / "t"
    process = train(*words, cwd=tmp_path)
    while not (sweep / "tuning.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 143 and "job 1 of at most 4: " in out and "job 2 of at most 4, about " in out
    tried = {path: path.read_text() for path in sweep.glob("*-s1-*/result.json")}
    assert [json.loads(text)["status"] for text in tried.values()] == ["completed"] * 2

    process = train(*words, cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert all(path.read_text() == text for path, text in tried.items())
    tuning = json.loads((sweep / "tuning.json").read_text())
    (row,), (left_out,) = tuning["rows"], tuning["left_out"]
    best = max(row["points"], key=lambda point: point["val/acc"])
    assert row["choices"] == [best["values"]] and best["job"] != left_out and row["edges"] == [["optimizer.lr"]]
    assert "WARNING: tuning" in out and "EDGE of its grid (0.01, 0.05)" in out
    results = [json.loads(path.read_text()) for path in sweep.glob("*/result.json")]
    rates = {(r["config"]["seed"], r["config"]["optimizer"]["lr"]) for r in results}
    (chosen,) = (point["optimizer.lr"] for point in row["choices"])
    assert rates == {(1, 0.01), (1, 0.05), (2, chosen), (3, chosen)} and len(results) == 4

    (stage,) = tuning["second_stage"]
    number, planned = read_plan(sweep)
    assert number == 4 and {*planned} == {path.parent.name for path in sweep.glob("*/result.json")}
    assert "job 4 of 4" in out and "not begun" not in out
    assert {*stage["jobs"], left_out} == {path.parent.name for path in sweep.glob("*/result.json")}
    assert not_chosen(sweep) == {left_out} and len(tuning_lines([sweep])) == 3
    assert collect([sweep], tmp_path / "kept") == [] and len(list((tmp_path / "kept").iterdir())) == 3


@pytest.mark.parametrize("sweeper", ["tuned", "optuna"])
def test_a_second_command_of_one_tuned_sweep_is_one_line_and_changes_nothing(sweeper, tmp_path):
    if sweeper == "optuna":
        pytest.importorskip("optuna")
    sweep = tmp_path / "multirun" / "t"
    sweep.mkdir(parents=True)
    with folder_lock(sweep):
        words = ("-m", f"hydra/sweeper={sweeper}", "sweep=t", "method=vanilla", "tune.lr=[0.01,0.05]")
        process = train(*words, cwd=tmp_path)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2 and [path.name for path in sweep.iterdir()] == [".lock"]
    assert err == "error: another process is at work in multirun/t, and tuning is one process's at a time\n"


def test_nothing_is_chosen_while_a_point_is_at_work_in_another_process(tmp_path, compose_config):
    words = ("sweep=t", "method=vanilla", "seed=1")
    name = job_folder(compose_config(*TINY, *words, "optimizer.lr=0.05"))
    sweep = tmp_path / "multirun" / "t"
    (sweep / name).mkdir(parents=True)
    with folder_lock(sweep / name):
        process = train("-m", "hydra/sweeper=tuned", *words, "tune.lr=[0.01,0.05]", cwd=tmp_path)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and err.count("\n") == 1
    assert err.startswith("error: tuning vanilla: another process is at work in ") and name in err
    assert len(list(sweep.glob("*/result.json"))) == 1 and not (sweep / "tuning.json").exists()


@pytest.mark.parametrize(
    ("sweeper", "given"),
    [
        ("tuned", "dataset.val_source=test"),
        ("optuna", "dataset.val_source=test"),
        ("tuned", "tune.options={dataset.val_source: [train, test]}"),
        ("optuna", "dataset.val_source=choice(train,test)"),
    ],
)
def test_nothing_is_chosen_on_test_images(tmp_path, sweeper, given):
    if sweeper == "optuna":
        pytest.importorskip("optuna")
    words = ("-m", f"hydra/sweeper={sweeper}", "sweep=t", "method=vanilla", "tune.lr=[0.01,0.05]")
    process = train(*words, given, "dataset.val_size=null", cwd=tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and err.startswith("error: dataset.val_source=test: allowed is train ")
    assert not list(tmp_path.rglob("result.json"))


def test_what_the_method_declares_is_tried_where_it_is_asked_for(tmp_path):
    words = ("-m", "hydra/sweeper=tuned", "sweep=t", "method=lora", "tune.declared=true")
    process = train(*words, cwd=tmp_path)
    while not (launched := list(filter(None, (p.read_text() for p in tmp_path.rglob(".hydra/overrides.yaml"))))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert "method.lora_rank=4" in launched[0] and process.returncode == 143


def test_options_to_try_may_be_given_on_the_command_line(compose_config):
    cfg = compose_config("tune.options={rank.activation_epsilon: [0.8, 0.9]}")
    validate(cfg)
    assert grid_of(cfg.tune, {}) == [{"rank.activation_epsilon": 0.8}, {"rank.activation_epsilon": 0.9}]
    with pytest.raises(UserError, match=r"tune\.options=\[1\]: allowed is a mapping from options other than the seed"):
        validate(compose_config("tune.options=[1]"))
