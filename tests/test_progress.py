"""What a sweep tells of its jobs while it runs, from results as they lie on disk."""

import time
from datetime import datetime, timezone

import pytest
from omegaconf import OmegaConf

from wasi import progress
from wasi.progress import ProgressCallback, job_position, numbers, sweep_state
from wasi.runs.result import read_result, write_json

CONFIG = {
    "model": {"name": "vit_micro", "weights": "pretrained"},
    "dataset": {"name": "digits", "batch_size": 64},
    "device": {"name": "cpu"},
    "train": {"memory": "plain", "micro_batch_size": None, "gradient_checkpointing": False},
}


def job(sweep, name, method="vanilla", seed=0, status="completed", seconds=60.0, **metrics):
    """A job's folder; `peak` and `step` in place of the metrics' names."""
    names = {"acc": "test/acc", "val": "val/acc", "peak": "memory/train_peak_mib", "step": "time/train_step_ms_p50"}
    weight = {"weight_epsilon": 0.8} if method == "wasi" else {}
    folder = sweep / name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "result.json",
        {
            "schema_version": 1, "status": status, "error": None if status == "completed" else "x",
            "fingerprint": name, "config": {**CONFIG, "method": {"name": method, **weight}, "seed": seed},
            "provenance": {"wall_seconds": seconds, "start": datetime.now(timezone.utc).isoformat()},
            "metrics": {names[key]: value for key, value in metrics.items()},
        },
    )  # fmt: skip
    return folder


def test_a_job_s_numbers_stand_beside_those_of_the_vanilla_of_its_seed(tmp_path):
    job(tmp_path, "v0", seed=0, acc=0.8, peak=100.0, step=10.0)
    job(tmp_path, "v1", seed=1, acc=0.9, peak=100.0, step=30.0)
    folder = job(tmp_path, "w1", "wasi", seed=1, acc=0.88, peak=50.0, step=20.0)
    costs = "train MiB 50.00 (2.00×), step ms 20.00 (1.50×)"
    output = f"wasi 0.8, vit_micro on digits, seed 1: test acc 0.8800 (-0.0200), {costs}"
    assert numbers(folder, tmp_path) == output


def test_times_of_a_busy_machine_are_told_with_a_warning(tmp_path):
    job(tmp_path, "v", acc=0.8, step=30.0)
    folder = job(tmp_path, "w", "wasi", acc=0.8, step=10.0)
    result = read_result(folder)
    for share, ending in ((0.05, "step ms 10.00 (3.00×)"), (0.6, "step ms 10.00; busy machine, threads waited 60%")):
        write_json(folder / "result.json", {**result, "provenance": {"cpu_wait_share": share}})
        assert f", {ending}" in numbers(folder, tmp_path)


def test_another_seed_has_the_mean_of_all_vanillas(tmp_path):
    for seed, accuracy in enumerate((0.8, 0.9)):
        job(tmp_path, f"v{seed}", seed=seed, acc=accuracy)
    assert "test acc 0.8800 (+0.0300)" in numbers(job(tmp_path, "w", "wasi", seed=7, acc=0.88), tmp_path)


def test_a_vanilla_of_another_seed_has_its_own_accuracy(tmp_path):
    job(tmp_path, "v0", seed=0, acc=0.8)
    assert numbers(job(tmp_path, "v1", seed=1, acc=0.9), tmp_path).endswith("seed 1: test acc 0.9000")


def test_a_vanilla_at_a_point_that_tuning_rejected_is_not_compared_with(tmp_path):
    for name, accuracy in (("v0", 0.8), ("v1", 0.2)):
        job(tmp_path, name, acc=accuracy)
    write_json(tmp_path / "tuning.json", {"seed": "0", "rows": [], "left_out": ["v1"]})
    assert "test acc 0.8800 (+0.0800)" in numbers(job(tmp_path, "w", "wasi", seed=7, acc=0.88), tmp_path)


def test_before_the_first_vanilla_there_is_nothing_to_compare_with(tmp_path):
    folder = job(tmp_path, "w", "wasi", acc=0.88)
    assert numbers(folder, tmp_path).endswith("test acc 0.8800; no vanilla to compare with yet")
    assert numbers(job(tmp_path, "f", "wasi", status="failed"), tmp_path) == ""


@pytest.mark.parametrize(
    ("sweeper", "tuning", "seed", "message"),
    [
        ("TunedSweeper", None, 1, "val acc 0.7000"),  # in the first stage
        ("OptunaSweeper", (["v"], [], "1"), 1, "val acc 0.7000"),  # of the second row, while the first has chosen
        ("TunedSweeper", (["v", "w"], ["w"], "1"), 1, "val acc 0.7000"),
        ("TunedSweeper", (["v", "w"], ["w"], None), 1, "val acc 0.7000"),
        ("TunedSweeper", (["v", "w"], ["v"], "1"), 1, "test acc 0.8800"),  # chosen
        ("OptunaSweeper", (["v"], [], "1"), 2, "test acc 0.8800"),  # in the second stage
        ("BasicSweeper", None, 1, "test acc 0.8800"),
    ],
)
def test_while_a_sweep_chooses_it_tells_nothing_of_test_images(tmp_path, monkeypatch, sweeper, tuning, seed, message):
    lines = []
    monkeypatch.setattr(progress.log, "info", lambda *words: lines.append(words[0] % words[1:]))
    if tuning is not None:
        points, left_out, tuned_with = tuning
        told = {"row": "wasi", "objectives": ["val/acc"], "choices": [], "edges": [], "told": []}
        rows = [{**told, "points": [{"job": job} for job in points]}]
        write_json(tmp_path / "tuning.json", {"seed": tuned_with, "rows": rows, "left_out": left_out})
    hydra = {
        "runtime": {"output_dir": str(tmp_path / "w")}, "sweep": {"dir": str(tmp_path)}, "mode": "MULTIRUN",
        "job": {"num": 0}, "sweeper": {"_target_": f"some.{sweeper}"},
    }  # fmt: skip
    callback = ProgressCallback()
    callback.on_job_start(config := OmegaConf.create({"hydra": hydra, "seed": seed}), task_function=None)
    job(tmp_path, "w", "wasi", acc=0.88, val=0.7)
    callback.on_job_end(config, None)
    assert message in lines[-1] and ("test" in lines[-1]) == ("test" in message)


def test_jobs_are_counted_once_where_the_plan_names_them(tmp_path):
    write_json(tmp_path / "sweep.json", {"jobs": 2, "folders": ["a", "b"]})
    assert job_position(tmp_path / "b", tmp_path, 3) == "2 of 2"
    write_json(tmp_path / "sweep.json", {"jobs": 6})
    assert job_position(tmp_path / "b", tmp_path, 3) == "4 of at most 6"
    (tmp_path / "sweep.json").unlink()
    assert job_position(tmp_path / "b", tmp_path, 3) == "4"


def test_the_expected_end_is_told_once_a_job_is_completed(tmp_path):
    write_json(tmp_path / "sweep.json", {"jobs": 4, "folders": list("abcd")})
    assert sweep_state(tmp_path) == ""
    job(tmp_path, "a", seconds=600.0)
    job(tmp_path, "b", status="failed")
    assert sweep_state(tmp_path).startswith("1 failed, about 20 min left (")
    job(tmp_path, "x", status="interrupted")  # of an earlier command: this one does not continue it
    assert sweep_state(tmp_path).startswith("1 failed, about 20 min left (")


@pytest.fixture
def output(monkeypatch):
    lines = []
    monkeypatch.setattr(progress.log, "info", lambda text, *words: lines.append(text % words))
    return lines


def test_a_job_that_is_skipped_or_met_again_is_told_once(tmp_path, output):
    def run(name, writes):
        runtime = {"output_dir": str(tmp_path / name)}
        hydra = {"runtime": runtime, "sweep": {"dir": str(tmp_path)}, "mode": "MULTIRUN", "job": {"num": 0}}
        hydra["sweeper"] = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"}
        config = OmegaConf.create({"hydra": hydra})
        callback.on_job_start(config, task_function=None)
        if writes:
            time.sleep(0.01)
            job(tmp_path, name, acc=0.5)
        callback.on_job_end(config, None)

    write_json(tmp_path / "sweep.json", {"jobs": 2, "folders": ["old", "new"]})
    job(tmp_path, "old", acc=0.4)
    callback = ProgressCallback()
    for name, writes in (("old", False), ("new", True), ("new", False)):
        run(name, writes)
    assert [line.split(":")[0].split(",")[0] for line in output] == ["job 1 of 2", "job 2 of 2", "job 2 of 2 done"]
