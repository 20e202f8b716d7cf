import json
import os

import pytest

from tests.bench import jobs
from tests.report import fakes
from wasi.bench.report import bench_csv, read_jobs
from wasi.errors import UserError
from wasi.report.gathered import gather
from wasi.report.load import read_run, read_runs
from wasi.results.collect import collect
from wasi.results.kept_result import read_kept
from wasi.runs.result import read_json
from wasi.status import jobs as jobs_begun


def test_each_fingerprint_counts_once_and_the_newest_completed_wins(tmp_path):
    early, late = (fakes.PROVENANCE | {"start": f"2026-01-0{day}T00:00:00+00:00"} for day in (1, 2))
    latest = fakes.PROVENANCE | {"start": "2026-01-03T00:00:00+00:00"}
    fakes.write(tmp_path / "a", fakes.metrics(0.8), fakes.config(), provenance=late)
    fakes.write(tmp_path / "b", fakes.metrics(0.7), fakes.config(), provenance=early)
    fakes.write(tmp_path / "b", {}, fakes.config(), provenance=latest, status="failed", error="x")

    runs, warnings = read_runs([tmp_path / "a", tmp_path / "b"])

    assert [(run.status, run.metrics["val/acc"]) for run in runs] == [("completed", 0.8)]
    assert warnings == []


@pytest.mark.parametrize("later", ["a", "b"])
def test_which_of_two_copies_of_a_run_counts_does_not_hang_on_the_time_of_their_files(later, tmp_path):
    paths = {name: fakes.write(tmp_path / name, fakes.metrics(0.8), fakes.config()) for name in "ab"}
    for name, path in paths.items():
        os.utime(path, (0, 2 if name == later else 1))
    ((found,), _) = read_runs([tmp_path])
    assert found.path == paths["b"]


def test_a_file_reached_through_two_folders_is_read_once(tmp_path):
    path = fakes.write(tmp_path, fakes.metrics(0.8), fakes.config())
    runs, _ = read_runs([tmp_path, path.parent, tmp_path])
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"schema_version": 1, "sta', "cannot be read"),
        ("[1]", "not a JSON object"),
        ('{"schema_version": 2}', "schema_version is 2, this program reads 1"),
        ('{"schema_version": 1, "status": "done"}', "status is 'done'"),
        ('{"schema_version": 1, "status": "completed", "config": {"seed": 0}}', "config lacks"),
    ],
)
def test_an_unusable_file_is_named_and_left_out(tmp_path, content, reason):
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config())
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "result.json").write_text(content)

    runs, (warning,) = read_runs([tmp_path])

    assert len(runs) == 1
    assert str(tmp_path / "bad" / "result.json") in warning and reason in warning


def test_a_pipe_with_a_results_name_is_left_out(tmp_path):
    os.mkfifo(tmp_path / "result.json")
    os.mkfifo(tmp_path / "other.json")
    with pytest.raises(UserError, match="result.json: cannot be read .OSError: no file."):
        read_runs([tmp_path])
    assert read_json(tmp_path / "result.json") is None


LAYER = {"name": "fc1", "in_features": 8, "out_features": 8, "weight_rank": 2, "activation_ranks": [4, 2]}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"layers": "fc1"}, "layers is 'fc1'"),
        ({"layers": 3}, "layers is 3"),
        ({"layers": ["fc1"]}, "layers has 'fc1'"),
        ({"layers": [LAYER, {"weight_rank": 2}]}, "layers has {'weight_rank': 2}"),
        ({"layers": [LAYER | {"in_features": "8"}]}, "layers has {'name': 'fc1', 'in_features': '8'"),
        ({"layers": [LAYER | {"weight_rank": [2]}]}, "layers has {'name': 'fc1'"),
        ({"layers": [{"name": "fc1"}]}, "layers has {'name': 'fc1'}"),
        ({"layers": [LAYER | {"in_features": 0}]}, "layers has {'name': 'fc1', 'in_features': 0"),
        ({"layers": [LAYER | {"weight_rank": None}]}, "layers has {'name': 'fc1'"),
        ({"layers": [LAYER | {"activation_ranks": [4, None]}]}, "layers has {'name': 'fc1'"),
        ({"layers": [LAYER | {"activation_ranks": 2}]}, "layers has {'name': 'fc1'"),
        ({"layers": [LAYER | {"activation_ranks": [4, "2"]}]}, "layers has {'name': 'fc1'"),
        ({"seed": [0, 1]}, "config.seed is [0, 1]"),
        ({"device.name": 5}, "config.device.name is 5"),
        ({"optimizer._target_": ["a"]}, "config.optimizer._target_ is ['a']"),
        ({"dataset.batch_size": []}, "config.dataset.batch_size is []"),
        ({"method.weight_epsilon": {}}, "config.method.weight_epsilon is {}"),
        ({"method.weight_epsilon": "much"}, "config.method.weight_epsilon is 'much'"),
        ({"optimizer.lr": "0.1"}, "config.optimizer.lr is '0.1'"),
        ({"optimizer": "sgd"}, "config.optimizer is 'sgd'"),
        ({"train.memory": ["lean"]}, "config.train.memory is ['lean']"),
    ],
)
def test_a_result_with_a_wrong_type_is_named_and_left_out(fields, reason, tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config("wasi", 0.8), layers=[LAYER])
    if "layers" in fields:
        bad = fakes.write(tmp_path, fakes.metrics(0.7), fakes.config("wasi", 0.8, seed=1), **fields)
    else:
        bad = fakes.write(tmp_path, fakes.metrics(0.7), fakes.config("wasi", 0.8, options=fields))

    runs, (warning,) = read_runs([tmp_path])
    assert len(runs) == 1 and warning.startswith(f"left out {bad}: damaged: {reason}")
    (line,) = collect([tmp_path], tmp_path / "kept")
    assert line.startswith(f"left out {bad.parent}: damaged: {reason}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("git_commit", 7), ("experiment", ["a"]), ("cuda", {"a": 1}), ("device", 0), ("cpu_wait_share", "much")),
        *(("machine", {"processor": ["a"]}), ("versions", {"torch": 2}), ("threads", {"torch": "4"}), ("warnings", 5)),
    ],
)
def test_a_provenance_with_a_wrong_type_is_named_by_reports_and_tables(key, value, tmp_path):
    fakes.write(tmp_path / "sweep", fakes.metrics(0.8), fakes.config("wasi", 0.8))
    collect([tmp_path / "sweep"], tmp_path / "kept")
    (path,) = (tmp_path / "kept").glob("*.json")
    content = json.loads(path.read_text())
    content["provenance"][key] = value
    (tmp_path / "kept" / "bad.json").write_text(json.dumps(content | {"fingerprint": "bad"}))
    runs, (warning,) = read_runs([tmp_path / "kept"])
    assert len(runs) == 1 and warning.startswith(f"left out {tmp_path}/kept/bad.json: damaged: provenance.{key}")
    with pytest.raises(UserError, match=rf"bad\.json: allowed is .* \(damaged: provenance\.{key}"):
        read_kept(tmp_path / "kept")


@pytest.mark.parametrize(
    "options",
    [
        *({"seed": [1, 2]}, {"device.name": 5}, {"method.name": [1]}, {"method.name": 5}, {"optimizer": {"a": 1}}),
        {"dataset.name": "image_folder", "dataset.root": 2024},
    ],
)
def test_a_refused_option_of_a_wrong_type_costs_no_report(options, tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config("wasi", 0.8))
    fakes.write(tmp_path, {}, fakes.config("wasi", 0.8, options=options), status="failed", error="it was refused")
    report = gather([tmp_path], None)
    assert len(report.runs) == 2 and any("it was refused" in line for line in report.not_averaged)


def test_no_usable_result_is_a_users_mistake_that_names_folder_and_cause(tmp_path):
    with pytest.raises(UserError, match="result.json somewhere below$"):
        read_runs([tmp_path])
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(UserError, match="JSONDecodeError"):
        read_runs([tmp_path])
    with pytest.raises(UserError, match="an existing folder, or"):
        read_runs([tmp_path / "absent"])


def test_what_is_not_a_finite_number_was_not_measured(tmp_path):
    path = fakes.write(tmp_path, {}, fakes.config())
    content = json.loads(path.read_text())
    others = {"a": float("nan"), "b": None, "c": "3", "d": True, "e": float("inf"), "f": 10**400}
    content["metrics"] = {"val/acc": 0.0} | others
    path.write_text(json.dumps(content))
    (run,), _ = read_runs([tmp_path])
    assert run.metrics == {"val/acc": 0.0}


def test_one_folder_of_images_is_one_data_set_however_it_was_given(tmp_path):
    for seed, (root, content) in enumerate(
        [("photos", "1f3a"), ("/home/me/photos", "1f3a"), ("photos", "77c0"), ("/home/me/photos/", "1f3a")]
    ):
        options = {"dataset.name": "image_folder", "dataset.root": root}
        provenance = fakes.PROVENANCE | {"data": content}
        fakes.write(tmp_path, fakes.metrics(0.8), fakes.config(seed=seed, options=options), provenance=provenance)
    found = [[group.seeds for group in block.groups] for block in gather([tmp_path], None).blocks]
    assert found == [[[0, 1, 3]], [[2]]]


def test_a_benchmark_on_a_folder_of_images_is_of_the_runs_data_and_so_is_its_baseline(tmp_path):
    """Neither tells the content."""
    for seed, root in enumerate(["photos", "/home/me/photos"]):
        options, provenance = {"dataset.name": "image_folder", "dataset.root": root}, fakes.PROVENANCE | {"data": "1f"}
        fakes.write(tmp_path, fakes.metrics(0.8), fakes.config(seed=seed, options=options), provenance=provenance)
    names = {"dataset__name": "image_folder", "dataset__root": "photos"}
    found = jobs.content(jobs.config("wasi", 0.8, **names), jobs.metrics(5, 2, 50), jobs.metrics(10, 4, 100))
    found["baseline"]["config"] = jobs.config("vanilla", **names)
    (tmp_path / "bench.json").write_text(json.dumps(found))
    runs, _ = read_runs([tmp_path])
    (bench,) = (run for run in runs if run.is_bench)
    assert {run.config["dataset"]["root"] for run in (*runs, bench.baseline)} == {"/home/me/photos"}
    found["baseline"]["config"]["optimizer"] = {"_target_": ["a"]}
    (tmp_path / "bench.json").write_text(json.dumps(found))
    assert "damaged: of the baseline, config.optimizer._target_ is ['a']" in read_runs([tmp_path])[1][0]


def test_a_ratio_whose_interval_lacks_an_end_has_none(tmp_path):
    content = jobs.content(fakes.config("wasi", 0.8), jobs.metrics(60, 5, 60), jobs.metrics(100, 10, 400))
    step, inference = "time/train_step_ms_p50", "time/inference_ms_p50"
    whole = dict(content["ratio"][inference])
    content["ratio"][step]["high"] = "wide"
    jobs.write_sweep(tmp_path, [content])
    ratio = read_run(tmp_path / "job0" / "bench.json").ratio
    assert ratio[step] == {"p50": 100 / 60} and ratio[inference] == whole


def test_a_benchmark_is_read_by_the_keys_of_a_run(tmp_path):
    """`environment`, which has fingerprint and provenance again, is not needed."""
    content = jobs.content(fakes.config("wasi", 0.8), jobs.metrics(60, 5, 60), jobs.metrics(100, 10, 400))
    provenance = fakes.PROVENANCE | {"device": "cuda:0", "warnings": ["ours times: wide spread"]}
    without = content | {"fingerprint": "abc", "provenance": provenance}
    both = without | {"environment": {"fingerprint": "abc", **provenance}}
    found = []
    for name, one in {"without": without, "both": both}.items():
        sweep = tmp_path / name / "sweep"
        sweep.mkdir(parents=True)
        jobs.write_sweep(sweep, [one])
        collect([sweep], tmp_path / name / "kept")
        (kept,) = (tmp_path / name / "kept").glob("*.json")
        run = read_run(sweep / "job0" / "bench.json")
        (begun,) = jobs_begun(sweep)
        csv = bench_csv(read_jobs(sweep), sweep)
        found.append((vars(run) | {"path": None, "baseline": None}, kept.read_text(), begun.seconds, csv))
        assert (run.fingerprint, run.provenance, run.is_bench, begun.seconds) == ("abc", provenance, True, 12.5)
        assert (run.baseline.fingerprint, run.config["device"]["name"]) == ("abc/baseline", "cuda")
    assert found[0] == found[1]
