"""bench.json after every ending; what is skipped and what is measured again."""

import json
import logging
import signal
from pathlib import Path

import pytest
from omegaconf import open_dict

from tests.tracking import wandb_file
from wasi.bench import measure_job as job_module
from wasi.bench.children import ChildFailed
from wasi.bench.job_identity import bench_fingerprint, bench_folder
from wasi.bench.measure_job import perform
from wasi.bench.measurement import TRAIN, Side
from wasi.errors import Interrupted, UserError
from wasi.measure.telemetry import Snapshot
from wasi.runs import job as run_module
from wasi.tracking.categories import MEMORY, memory_metric

HEAD = ["schema_version", "status", "error", "fingerprint", "config", "provenance"]
KEYS = [*HEAD, "metrics", "baseline", "ratio", "samples", "layers", "environment"]

pytestmark = pytest.mark.usefixtures("words_of_the_command")


@pytest.fixture
def cfg(compose_config, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # as `measures` tells
    return compose_config("seed=1", config="bench")


def measures(cfg, job):
    job.result.baseline = Side({"method": {"name": "vanilla"}})
    for _, side in job.result.sides():
        side.rounds[TRAIN] = [[1.0, 2.0]]
        side.counted = {"memory/train_peak_mib": 2.0, "memory/nothing": None}
    job.result.process = {"threads": 2, "omp_num_threads": "2", "denormals_flushed": True, "device": "cpu"}


def raising(error):
    def body(cfg, job):
        measures(cfg, job)
        raise error

    return body


def never(cfg, job):
    raise AssertionError("this job should not have been measured")


def read(folder):
    return json.loads((folder / "bench.json").read_text())


def test_a_completed_job(cfg, tmp_path):
    assert perform(cfg, tmp_path, measures).exit_code == 0
    found = read(tmp_path)
    assert list(found) == KEYS and found["status"] == "completed" and found["error"] is None
    assert found["config"]["method"]["weight_epsilon"] == 0.8  # resolved
    assert found["metrics"]["time/train_step_ms_p50"] == 1.5 and "memory/nothing" not in found["metrics"]
    assert found["baseline"]["config"] == {"method": {"name": "vanilla"}}
    assert found["ratio"]["memory/train_peak_mib"] == {"p50": 1, "low": 1, "high": 1}
    assert found["samples"]["ours"] == {TRAIN: [[1.0, 2.0]]}
    environment = found["environment"]
    assert (
        environment["threads"] == {"torch": 2, "OMP_NUM_THREADS": "2"} and environment["denormals_flushed"] is True
    )
    assert {"machine", "versions", "start", "telemetry", "warnings"} <= environment.keys()


@pytest.mark.parametrize("missing", ["logger", "logger.name"])
def test_a_configuration_without_a_section_is_refused_in_one_line(cfg, tmp_path, missing, capsys):
    section, _, key = missing.partition(".")
    with open_dict(cfg):
        del (cfg[section] if key else cfg)[key or section]
    assert perform(cfg, tmp_path, never).exit_code == 2
    assert missing in (output := capsys.readouterr().err) and output.count("\n") == 1


def test_it_has_the_keys_of_result_json_and_those_two_in_environment_too(cfg, tmp_path):
    perform(cfg, tmp_path, measures)
    found = read(tmp_path)
    assert found["fingerprint"] == found["environment"]["fingerprint"] == bench_fingerprint(cfg)
    assert found["environment"] == {"fingerprint": found["fingerprint"], **found["provenance"]}


@pytest.mark.parametrize(
    ("error", "status", "line", "code"),
    [
        (
            ChildFailed("failed", "baseline: it was killed by SIGKILL"),
            "failed",
            "baseline: it was killed by SIGKILL",
            1,
        ),
        (ChildFailed("diverged", "diverged: loss is nan"), "diverged", "diverged: loss is nan", 1),
        (UserError("model.weights", "x", "y"), "failed", "model.weights=x: allowed is y", 2),
        (ValueError("two\nlines"), "failed", "ValueError: two lines", 1),
    ],
)
def test_a_failed_job_keeps_what_was_measured(cfg, tmp_path, error, status, line, code):
    assert perform(cfg, tmp_path, raising(error)).exit_code == code
    found = read(tmp_path)
    assert (found["status"], found["error"]) == (status, line)
    assert found["metrics"]["time/train_step_ms_p50"] == 1.5 and found["ratio"]


def test_a_full_disk_is_this_jobs_failure_alone(cfg, tmp_path, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job_module, "write_json", full)
    ending = perform(cfg, tmp_path, never)
    assert (ending.status, ending.exit_code) == ("failed", 1) and not (tmp_path / "bench.json").exists()
    assert capsys.readouterr().err.startswith("error: OSError: [Errno 28] No space left on device")


def test_ctrl_c_keeps_what_was_measured(cfg, tmp_path):
    with pytest.raises(Interrupted):
        perform(cfg, tmp_path, raising(Interrupted(signal.SIGINT)))
    assert read(tmp_path)["status"] == "interrupted" and read(tmp_path)["metrics"]["time/train_step_ms_p50"] == 1.5


def test_it_says_running_while_it_runs(cfg, tmp_path):
    seen = []
    perform(cfg, tmp_path, lambda cfg, job: seen.append(read(tmp_path)))
    assert seen[0]["status"] == "running" and list(seen[0]) == KEYS


def test_throttling_makes_it_invalid(cfg, tmp_path):
    def throttles(cfg, job):
        measures(cfg, job)
        job.result.looks += [Snapshot(throttle_flags=0), Snapshot(throttle_flags=0x40000)]

    assert perform(cfg, tmp_path, throttles).exit_code == 1
    found = read(tmp_path)
    assert found["status"] == "invalid" and "throttled during the run" in found["error"]
    assert found["environment"]["telemetry"] == {
        "before": {"throttle_flags": 0},
        "after": {"throttle_flags": 0x40000},
    }


def test_completed_is_skipped_unless_asked_again(cfg, compose_config, tmp_path):
    perform(cfg, tmp_path, measures)
    before = read(tmp_path)
    assert perform(cfg, tmp_path, never).exit_code == 0 and read(tmp_path) == before
    again = compose_config("seed=1", "bench.rerun=true", config="bench")
    assert perform(again, tmp_path, raising(ChildFailed("failed", "x"))).status == "failed"
    assert perform(cfg, tmp_path, measures).status == "completed"  # what failed is measured again
    other = compose_config("seed=1", "bench.rounds=2", config="bench")
    assert perform(other, tmp_path, raising(ChildFailed("failed", "x"))).status == "failed"


def test_another_configuration_s_measurement_is_not_replaced_unasked(cfg, compose_config, tmp_path, capsys):
    perform(cfg, tmp_path, measures)
    before = (tmp_path / "bench.json").read_bytes()
    other = ("seed=1", "bench.rounds=3")
    assert perform(compose_config(*other, config="bench"), tmp_path, never).exit_code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: hydra.run.dir={tmp_path}: allowed is a folder of its own; here lies the completed ")
    assert "measurement of another configuration, which bench.rerun" in told
    assert (tmp_path / "bench.json").read_bytes() == before
    assert perform(compose_config(*other, "bench.rerun=true", config="bench"), tmp_path, measures).exit_code == 0
    assert read(tmp_path)["config"]["bench"]["rounds"] == 3


def test_another_machine_measures_again(cfg, tmp_path, monkeypatch):
    perform(cfg, tmp_path, measures)
    monkeypatch.setattr(job_module, "machine", lambda: {"processor": "Cortex-A76"})
    assert perform(cfg, tmp_path, raising(ChildFailed("failed", "x"))).status == "failed"


def test_a_measurement_of_other_code_is_used_with_a_warning(cfg, tmp_path, monkeypatch, caplog):
    perform(cfg, tmp_path, measures)
    monkeypatch.setattr(run_module, "code_version", lambda: {"git_commit": "f" * 40})
    with caplog.at_level(logging.WARNING):
        assert perform(cfg, tmp_path, never).exit_code == 0
    assert "the completed measurement comes from another commit" in caplog.text and "ffffffffff" in caplog.text


def _ask_for(threads, monkeypatch):
    if threads is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)


@pytest.mark.parametrize(
    ("asked", "now"), [("1", "OMP_NUM_THREADS is 1 now"), (None, "OMP_NUM_THREADS is not set now")]
)
def test_other_threads_measure_again_and_say_so(cfg, tmp_path, monkeypatch, caplog, asked, now):
    perform(cfg, tmp_path, measures)
    _ask_for(asked, monkeypatch)
    assert perform(cfg, tmp_path, raising(ChildFailed("failed", "x"))).status == "failed"
    assert f"completed here with 2 threads, but {now}, and measured anew" in caplog.text


@pytest.mark.parametrize(("before", "asked"), [("2", "2"), (None, None), (None, "2")])
def test_as_many_threads_as_before_are_the_same_measurement(cfg, tmp_path, monkeypatch, before, asked):
    def finds_two(cfg, job):
        measures(cfg, job)
        job.result.process["omp_num_threads"] = before

    perform(cfg, tmp_path, finds_two)
    _ask_for(asked, monkeypatch)
    assert perform(cfg, tmp_path, never).exit_code == 0


def test_threads_of_the_configuration_are_those_that_count(compose_config, tmp_path, monkeypatch):
    given = compose_config("seed=1", "device.num_threads=2", config="bench")
    perform(given, tmp_path, measures)
    _ask_for("1", monkeypatch)
    assert perform(given, tmp_path, never).exit_code == 0


@pytest.mark.parametrize("elsewhere", ["with other threads", "on another machine"])
def test_one_refused_before_it_began_leaves_a_measurement_alone(elsewhere, cfg, tmp_path, monkeypatch):
    def refused(cfg):
        raise UserError("dataset.root", "x", "y")

    perform(cfg, tmp_path, measures)
    before = read(tmp_path)
    if elsewhere == "with other threads":
        _ask_for("1", monkeypatch)
    else:
        monkeypatch.setattr(job_module, "machine", lambda: {"processor": "another"})
    monkeypatch.setattr(job_module, "check_inputs", refused)
    assert perform(cfg, tmp_path, never).exit_code == 2 and read(tmp_path) == before


@pytest.mark.parametrize(
    "override", ["bench.rounds=0", "bench.min_seconds=-1", "bench.warmup=x", "bench.min_count=1.5"]
)
def test_options_that_are_refused(compose_config, tmp_path, override):
    assert perform(compose_config(override, config="bench"), tmp_path, never).exit_code == 2
    assert read(tmp_path)["error"].startswith(override.split("=")[0])


def test_folders_and_fingerprints(compose_config):
    def of(*overrides):
        composed = compose_config(*overrides, config="bench")
        return bench_folder(composed), bench_fingerprint(composed)

    base = of("method=vanilla", "rank=eps_0.8")
    assert base == of("method=vanilla", "rank=eps_0.4", "bench.rerun=true")  # vanilla reads no threshold
    for other in (["bench.rounds=4"], ["bench.baseline=wsi"], ["seed=4"], ["bench.baseline=null"]):
        assert base[0] != of("method=vanilla", *other)[0] and base[1] != of("method=vanilla", *other)[1]
    # A baseline that reads thresholds makes them count.
    assert of("method=vanilla", "bench.baseline=wsi") != of("method=vanilla", "bench.baseline=wsi", "rank=eps_0.4")


def test_an_experiment_and_the_command_line_set_the_effort(compose_config):
    assert compose_config(config="bench").bench.min_seconds == 5.0
    cfg = compose_config("experiment=bench_smoke", "bench.rounds=7", config="bench", small=False)
    assert (cfg.bench.min_seconds, cfg.bench.rounds, cfg.model.weights) == (0.5, 7, "surrogate")


def measures_all(cfg, job):
    measures(cfg, job)
    for _, side in job.result.sides():
        side.counted |= {memory_metric(part): 1.0 for part in MEMORY}
        side.breakdown = [{"decomposition": 1.0, "factor_algebra": 2.0, "rest": 3.0}]
        side.layers = [{"name": "fc1", "type": "LowRankLinear", "weight_rank": 3, "activation_ranks": [2, 5]}]


def test_wandb_gets_the_file_the_layers_and_the_figures_of_a_completed_job(compose_config, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    words = ("seed=1", "sweep=together", "logger=wandb_offline")
    cfg = compose_config(*words, config="bench")
    assert perform(cfg, tmp_path, measures_all).exit_code == 0
    found = wandb_file.records(tmp_path)
    shown = wandb_file.history(found)[-1]
    assert {shown[f"figures/{name}/_type"] for name in ("memory", "time", "ranks")} == {"image-file"}
    files = next((tmp_path / "wandb").glob("offline-run-*")) / "files"
    table = json.loads((files / shown["layers/path"]).read_text())
    assert dict(zip(table["columns"], table["data"][0], strict=True))["activation_rank_2"] == 5
    (artifact,) = (one for one in wandb_file.of_type(found, "artifact") if one.type == "result")
    (content,) = artifact.manifest.contents
    assert content.path == "bench.json" and json.loads(Path(content.local_path).read_text()) == read(tmp_path)
    summary: dict = {}
    for record in wandb_file.of_type(found, "summary"):
        summary |= wandb_file.items(record.update)
    assert (summary["time/breakdown_rest_ms"], summary["ratio/memory/train_peak_mib"]) == (3.0, 1.0)

    again = compose_config(*words, "bench.rerun=true", config="bench")
    assert perform(again, tmp_path, raising(ChildFailed("failed", "x"))).status == "failed"
    found = wandb_file.records(tmp_path)  # of the one file that there is
    assert not wandb_file.of_type(found, "artifact") and wandb_file.of_type(found, "exit")[0].exit_code == 1


def test_options_of_a_whole_training_are_told(cfg, tmp_path, words_of_the_command, caplog):
    words_of_the_command += ["train.monitor=true", "train.memory=plain"]
    perform(cfg, tmp_path, lambda cfg, job: None)
    assert caplog.messages == ["train.monitor changes nothing that a benchmark measures"]
