"""W&B, offline: what was logged is in its file, under the contract's names."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracking import wandb_file
from tests.tracking.wandb_file import items, of_type, records, run_of, steps
from wasi.errors import UserError
from wasi.tracking import Tracker, open_tracker

wandb = pytest.importorskip("wandb")
from wasi.tracking.wandb_tracker import row_keys  # noqa: E402

LAYERS = [{"name": "blocks.0.fc1", "type": "LowRankLinear", "in_features": 8, "out_features": 4, "copies": 1,
           "weight_rank": 3, "activation_ranks": [2, 5]}]  # fmt: skip
PARTS = {f"memory/train_{part}_mib": 1.0 for part in ("weights", "gradients", "optimizer", "activations", "temporary")}
TIMES = {"time/train_step_ms_p50": 9.0, "time/subspace_ms_p50": 2.0}
METRICS = {"val/acc": 0.5, **PARTS, **TIMES}
RESULT = {"metrics": METRICS, "layers": LAYERS, "config": {"dataset": {"root": "/home/someone/data"}}}


@pytest.fixture
def offline(compose_config):
    return compose_config("logger=wandb_offline", "sweep=together", "rank.weight_epsilon=0.7")


def logged(tracker, first: int, last: int) -> None:
    for step in range(first, last + 1):
        tracker.log(step, {"train/loss": 1 / step})


def test_a_variable_that_wandb_refuses_is_named(tmp_path, offline, monkeypatch):
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    with pytest.raises(UserError, match="^WANDB_MODE=nonsense: allowed is what W&B accepts there .Input should be "):
        open_tracker(offline, tmp_path, "abc")


def test_a_variable_that_wandb_refuses_in_its_own_words_is_a_users_mistake(tmp_path, offline, monkeypatch):
    wandb.teardown()
    monkeypatch.setenv("WANDB_PROJECT", "a/b")
    with pytest.raises(UserError, match="^WANDB_…: allowed is what W&B accepts there .Invalid project name 'a/b'"):
        open_tracker(offline, tmp_path, "abc")


def test_a_disabled_run_asks_no_server_and_leaves_no_file(tmp_path, compose_config, monkeypatch):
    monkeypatch.setattr("wasi.tracking.wandb_tracker.reach", lambda address: pytest.fail(address))
    tracker = open_tracker(compose_config("logger=wandb", "logger.mode=disabled"), tmp_path, "abc")
    logged(tracker, 1, 2)
    tracker.finish(0, RESULT)
    assert not [*tmp_path.iterdir()]


def test_an_offline_run_reads_back(tmp_path, offline):
    tracker = open_tracker(offline, tmp_path, "abc")
    tracker.log(0, {"rank/fc1/weight": 3})
    tracker.resume(0)
    tracker.log(1, {"train/loss": 2.0, "lr": 0.1})
    tracker.log(2, {"train/loss": 1.5, "lr": 0.05})
    tracker.log(2, {"val/acc": 0.5})
    tracker.summary({"val/acc": 0.5, "memory/train_peak_mib": 0.0})
    tracker.finish(0)
    found = records(tmp_path)

    run = run_of(found)
    assert (run.project, run.run_group, run.display_name) == ("wasi", "together", tmp_path.name)
    assert list(run.tags) == ["wasi", "vit_micro", "digits", "eps_0.7_a0.8"]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["rank"]["weight_epsilon"] == config["method"]["weight_epsilon"] == 0.7
    assert config["fingerprint"] == "abc"

    names = ("_step", "train/step", "rank/fc1/weight", "train/loss", "val/acc")
    history = [tuple(row.get(name) for name in names) for row in wandb_file.history(found)]
    assert history == [(0, 0, 3, None, None), (1, 1, None, 2.0, None), (2, 2, None, 1.5, 0.5)]

    summary = {}
    for record in of_type(found, "summary"):
        summary.update(items(record.update))
    assert (summary["val/acc"], summary["memory/train_peak_mib"]) == (0.5, 0.0)

    metrics = of_type(found, "metric")
    assert "train/step" in {m.name for m in metrics} and "train/step" in {m.step_metric for m in metrics}
    assert of_type(found, "exit")[0].exit_code == 0


def config_of(folder: Path) -> dict:
    return {item.key: json.loads(item.value_json) for item in run_of(records(folder)).config.update}


def test_runs_tell_their_row_and_the_thresholds_that_their_method_reads(tmp_path, compose_config):
    """`rank` is in every run's configuration, of methods too that never look at it."""
    output = {}
    for method in ("wasi", "asi", "vanilla"):
        for seed in (0, 1):
            folder = tmp_path / f"{method}{seed}"
            words = (f"method={method}", f"seed={seed}", "rank.activation_epsilon=0.9")
            open_tracker(compose_config("logger=wandb_offline", *words), folder, f"{method}{seed}").finish(0)
            output[method, seed] = config_of(folder)
    assert [output[method, 0].get("thresholds") for method in ("wasi", "asi", "vanilla")] == [
        {"weights": 0.8, "activations": 0.9, "epsilon": 0.8}, {"activations": 0.9, "epsilon": 0.9}, None,
    ]  # fmt: skip
    assert all(output[method, 0]["row"] == output[method, 1]["row"] for method in ("wasi", "asi", "vanilla"))
    assert len({config["row"] for config in output.values()}) == 3


@pytest.mark.parametrize(
    ("words", "thresholds"),
    [
        (["method.weight_epsilon=0.3"], {"weights": 0.3, "activations": 0.8, "epsilon": 0.3}),
        (["method.activations.epsilon=0.3"], {"weights": 0.8, "activations": 0.3, "epsilon": 0.8}),
        (["rank.weight_epsilon=null"], {"activations": 0.8, "epsilon": 0.8}),
        (["rank.parameter_ratio=0.5"], {"activations": 0.8}),
        (["method=svd_llm", "method.keep_ratio=0.5"], None),
        (["rank.activation_selection=fixed", "rank.activation_ranks=[4,8,16]"], {"weights": 0.8, "epsilon": 0.8}),
        (["rank.activation_selection=perplexity"], {"weights": 0.8, "epsilon": 0.8}),
        (["method=asi", "rank.activation_selection=perplexity"], None),
    ],
)
def test_thresholds_are_those_that_decide_the_ranks(compose_config, words, thresholds):
    assert row_keys(compose_config("method=wasi", *words)).get("thresholds") == thresholds


def test_what_panels_need_is_there_after_a_completed_run(tmp_path, compose_config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    cfg = compose_config("logger=wandb_offline", "logger.log_model=true", f"dataset.root={tmp_path}/photos")
    tracker = open_tracker(cfg, tmp_path, "abc")
    tracker.resume(0)
    logged(tracker, 1, 2)
    tracker.finish(0, RESULT)
    found = records(tmp_path)

    last = wandb_file.history(found)[-1]
    assert last["_step"] == 2 and last["train/loss"] == 0.5
    assert {last[f"figures/{name}/_type"] for name in ("memory", "time", "ranks")} == {"image-file"}
    files = next((tmp_path / "wandb").glob("offline-run-*")) / "files"
    assert all((files / last[f"figures/{name}/path"]).is_file() for name in ("memory", "time", "ranks"))
    table = json.loads((files / last["layers/path"]).read_text())
    assert dict(zip(table["columns"], table["data"][0], strict=True)) == {
        "name": "blocks.0.fc1", "type": "LowRankLinear", "in_features": 8, "out_features": 4, "weight_rank": 3,
        "activation_rank_1": 2, "activation_rank_2": 5,
    }  # fmt: skip
    artifacts = {artifact.type: artifact for artifact in of_type(found, "artifact")}
    assert set(artifacts) == {"result", "model"} or {"result", "model"} < set(artifacts)
    content = artifacts["result"].manifest.contents[0]
    assert json.loads(Path(content.local_path).read_text())["config"] == {"dataset": {"root": "data"}}
    assert not any(str(tmp_path) in str(record) for record in found)


@pytest.mark.parametrize("code", [1, 143])
def test_a_run_that_is_not_completed_shows_no_result(tmp_path, offline, code):
    tracker = open_tracker(offline, tmp_path, "abc")
    tracker.resume(0)
    logged(tracker, 1, 2)
    tracker.finish(code, RESULT)
    found = records(tmp_path)
    assert not of_type(found, "artifact") and steps(found) == [1, 2]
    assert of_type(found, "exit")[0].exit_code == code


def test_nothing_tells_where_files_lie(tmp_path, compose_config, monkeypatch):
    places = tmp_path / "secret" / "photos", tmp_path / "here" / "data"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    weights = f"model.weights={places[0]}/w.safetensors"
    cfg = compose_config("logger=wandb_offline", weights, f"dataset.root={places[1]}")
    tracker = open_tracker(cfg, tmp_path, "abc")
    tracker.finish(0)
    found = records(tmp_path)
    assert not any(str(tmp_path) in str(record) or sys.executable in str(record) for record in found)
    config = {item.key: json.loads(item.value_json) for item in run_of(found).config.update}
    assert (config["model"]["weights"], config["dataset"]["root"]) == ("w.safetensors", "data")
    assert config["scheduler"]["_target_"] == cfg.scheduler._target_


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("/home/someone/suite", False),
        ("../suite", False),
        ("file:///home/someone/suite", False),
        ("https://example.org/suite.git", True),
        ("git@example.org:suite.git", True),
    ],
)
def test_where_a_clone_is_from_is_told_unless_it_is_a_folder(tmp_path, compose_config, monkeypatch, origin, message):
    for words in (["init", "-q"], ["remote", "add", "origin", origin]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", "one"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    tracker = open_tracker(compose_config("logger=wandb_offline"), tmp_path / "job", "abc")
    tracker.finish(0)
    assert (origin in str(run_of(records(tmp_path / "job")).git)) is message


def test_a_failed_run_is_marked_and_the_next_one_is_its_own(tmp_path, offline):
    ids = []
    for name, code in (("first", 1), ("second", 0)):
        (tmp_path / name).mkdir()
        tracker = open_tracker(offline, tmp_path / name, name)
        tracker.finish(code)
        found = records(tmp_path / name)
        assert of_type(found, "exit")[0].exit_code == code
        ids.append(run_of(found).run_id)
    assert len(set(ids)) == 2


_KILLED = """
import os, sys
from pathlib import Path
from hydra import compose, initialize_config_dir
import wasi.config.resolvers
from wasi.tracking import open_tracker

with initialize_config_dir(sys.argv[1], version_base="1.3"):
    small = ["model=vit_micro", "model.weights=random", "dataset=digits", "rank.weight_epsilon=0.7"]
    cfg = compose("config", [*small, "logger=wandb_offline", "sweep=together"])
tracker = open_tracker(cfg, Path(sys.argv[2]), "abc")
tracker.log(0, {"rank/fc1/weight": 3})
tracker.resume(0)
for step in range(1, 31):
    tracker.log(step, {"train/loss": 1 / step})
os.kill(os.getpid(), 9)
"""


def test_a_killed_and_resumed_run_is_one_file_with_every_step_once(tmp_path, offline):
    root = Path(__file__).resolve().parents[2]
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(root / "conf"), str(tmp_path)], cwd=root, timeout=60)
    assert killed.returncode == -signal.SIGKILL and len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1
    history = next((tmp_path / "wandb").glob("history-*.jsonl"))
    with open(history, "a") as file:
        file.write('{"step": 31, "train/lo')  # as a kill in the middle of a write leaves it

    tracker = open_tracker(offline, tmp_path, "abc")
    tracker.log(0, {"rank/fc1/weight": 3})
    tracker.resume(25)  # the last checkpoint
    tracker.log(25, {"val/acc": 0.5})  # validated again
    logged(tracker, 26, 40)
    tracker.finish(0)
    found = records(tmp_path)  # of the one file that there is
    assert steps(found) == list(range(1, 41)) == wandb_file.inspected_steps(tmp_path)
    assert [row["_step"] for row in wandb_file.history(found) if "val/acc" in row] == [25]
    assert [row["_step"] for row in wandb_file.history(found)].count(0) == 1
    assert run_of(found).run_id == history.stem.partition("-")[2]


@pytest.mark.parametrize("checkpoint", [0, 4])
def test_a_run_that_starts_over_in_its_process_has_every_step_once(tmp_path, offline, checkpoint):
    """As after running out of memory (`train.on_oom=halve`)."""
    tracker = open_tracker(offline, tmp_path, "abc")
    tracker.log(0, {"rank/fc1/weight": 3})
    tracker.resume(0)
    logged(tracker, 1, 6)
    tracker.log(0, {"rank/fc1/weight": 3})
    tracker.resume(checkpoint)
    logged(tracker, checkpoint + 1, 8)
    history = next((tmp_path / "wandb").glob("history-*.jsonl"))
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(9)) and rows[0] == {"step": 0, "rank/fc1/weight": 3}
    tracker.finish(0)
    assert steps(records(tmp_path)) == list(range(1, 9))


def test_what_is_measured_later_keeps_the_history(tmp_path, offline):
    tracker = open_tracker(offline, tmp_path, "abc")
    tracker.resume(0)
    logged(tracker, 1, 5)
    tracker.finish(0)
    tracker = open_tracker(offline, tmp_path, "abc")
    tracker.log(0, {"rank/fc1/weight": 3})
    tracker.finish(0, RESULT)
    found = records(tmp_path)
    assert steps(found) == [1, 2, 3, 4, 5] and "figures/memory/path" in wandb_file.history(found)[-1]


def test_a_new_attempt_is_a_run_of_its_own_beside_the_old_one(tmp_path, offline):
    for attempt in (1, 2):
        tracker = open_tracker(offline, tmp_path, "abc", attempt)
        tracker.resume(0)
        logged(tracker, 1, 3)
        tracker.finish(0)
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == len({file.stem for file in files}) == 2


def test_the_id_is_of_the_sweep_the_fingerprint_and_the_attempt():
    from wasi.tracking.wandb_tracker import run_id

    ids = [run_id(*of) for of in (("s", "f"), ("s", "g"), ("t", "f"), ("s", "f", 2))]
    assert len(set(ids)) == 4 and run_id("s", "f") == run_id("s", "f", 1) == ids[0]
    assert all(len(i) == 16 and i.isalnum() for i in ids)


@pytest.mark.parametrize(
    ("words", "off"), [(["device=pi5"], True), (["device=pi5", "logger.system_metrics=true"], False),
                       (["device=cpu"], False), (["logger.system_metrics=false"], True)]
)  # fmt: skip
def test_system_metrics_are_off_on_a_pi(tmp_path, compose_config, monkeypatch, words, off):
    seen = {}
    settings = wandb.Settings
    monkeypatch.setattr(wandb, "Settings", lambda **given: seen.update(given) or settings(**given))
    open_tracker(compose_config("logger=wandb_offline", *words), tmp_path, "abc").finish(0)
    assert seen["x_disable_stats"] is off


def test_without_a_logger_nothing_is_written(tmp_path, compose_config):
    tracker = open_tracker(compose_config(), tmp_path, "abc")
    assert type(tracker) is Tracker
    tracker.resume(0)
    tracker.log(1, {"train/loss": 1.0})
    tracker.flush()
    tracker.summary({})
    tracker.finish(0)
    assert list(tmp_path.iterdir()) == []


