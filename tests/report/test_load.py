import json

import pytest

from tests.bench import jobs
from tests.report import fakes
from wasi.bench.report import bench_csv, read_jobs
from wasi.errors import UserError
from wasi.report.load import read_run, read_runs
from wasi.results.collect import collect
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
    content["metrics"] = {"val/acc": 0.0, "a": float("nan"), "b": None, "c": "3", "d": True, "e": float("inf")}
    path.write_text(json.dumps(content))
    (run,), _ = read_runs([tmp_path])
    assert run.metrics == {"val/acc": 0.0}


def test_a_benchmark_is_read_alike_with_the_keys_of_any_version(tmp_path):
    """Earlier versions wrote the fingerprint and the provenance into `environment` alone."""
    content = jobs.content(fakes.config("wasi", 0.8), jobs.metrics(60, 5, 60), jobs.metrics(100, 10, 400))
    provenance = fakes.PROVENANCE | {"device": "cuda:0", "warnings": ["ours times: wide spread"]}
    old = content | {"environment": {"fingerprint": "abc", **provenance}}
    both = old | {"fingerprint": "abc", "provenance": provenance}
    new = both | {"environment": {}}  # which only tells that it is a benchmark
    found = []
    for name, one in {"old": old, "both": both, "new": new}.items():
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
    assert found[0] == found[1] == found[2]
