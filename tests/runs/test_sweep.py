"""The command that a sweep prints, and which of its jobs count as failed."""

import os

import pytest
from omegaconf import OmegaConf, read_write

from tests.runs.test_plan import composed
from wasi import sweep as sweep_module
from wasi.bench.sweep_callback import BenchCallback
from wasi.runs import job as job_module
from wasi.runs.ending import Ending
from wasi.runs.launching import reset_launched_jobs
from wasi.runs.lock import folder_lock
from wasi.runs.result import versions, write_json
from wasi.sweep import SweepCallback, failed_jobs, lost_jobs


def _job(sweep, name, status, error=None):
    folder = sweep / name
    folder.mkdir()
    write_json(folder / "result.json", {"status": status, "error": error})
    return folder


def test_this_invocation_s_failures(tmp_path):
    again = _job(tmp_path, "again", "failed", "as before")
    _job(tmp_path, "long_ago", "failed", "mended since")
    before = versions(tmp_path)
    _job(tmp_path, "fine", "completed")
    failed = _job(tmp_path, "failed", "failed", "train.epochs=0")
    diverged = _job(tmp_path, "diverged", "diverged", "loss")
    as_before = {"status": "failed", "error": "as before", "provenance": {"wall_seconds": 1.5}}
    write_json(again / "result.json", as_before)
    for folder in (again, failed, diverged):
        os.utime(folder / "result.json", (0, 0))  # the machine's clock was set back
    (tmp_path / "no_result").mkdir()
    (tmp_path / "notes").mkdir()
    write_json(tmp_path / "notes" / "result.json", {"mine": 1})
    found = {path: result["error"] for path, result in failed_jobs(tmp_path, before).items()}
    assert found == {again: "as before", failed: "train.epochs=0", diverged: "loss"}


def test_running_counts_once_its_process_is_gone(tmp_path):
    folder = _job(tmp_path, "killed", "running")
    with folder_lock(folder):
        assert failed_jobs(tmp_path, {}) == {}
    assert failed_jobs(tmp_path, {})[folder]["error"] == "its process died"


def test_a_job_without_any_result_is_lost_unless_somebody_is_at_it(tmp_path):
    fine, begun, absent = _job(tmp_path, "fine", "completed"), tmp_path / "begun", tmp_path / "absent"
    begun.mkdir()
    with folder_lock(begun):
        assert list(lost_jobs([fine, begun, absent])) == [absent]
    assert lost_jobs([fine, begun])[begun]["error"] == "it left no result.json"


def test_a_job_whose_folder_has_the_completed_result_of_another_is_lost(tmp_path):
    jobs = [_job(tmp_path, f"wasi-s0-0123456789{name}", "completed") for name in ("", "x")]
    for job in jobs:
        write_json(job / "result.json", {"status": "completed", "fingerprint": "0123456789abcdef"})
    ((job, result),) = lost_jobs(jobs).items()
    assert job == jobs[1] and result["error"] == "its folder has the result of another configuration"


def test_a_job_whose_folder_is_damaged_is_lost(tmp_path):
    fine, without_lock = _job(tmp_path, "fine", "completed"), _job(tmp_path, "without_lock", "running")
    (without_lock / ".lock").mkdir()
    (tmp_path / "without_result" / "result.json").mkdir(parents=True)
    assert failed_jobs(tmp_path, {})[without_lock]["error"] == "its process died"
    lost = lost_jobs(iter([fine, without_lock, tmp_path / "without_result"]))
    assert [(job.name, result["error"]) for job, result in lost.items()] == [
        ("without_result", "it left no result.json"), ("without_lock", "its folder's .lock cannot be opened")
    ]  # fmt: skip


@pytest.mark.parametrize("status", ["completed", "interrupted"])
@pytest.mark.parametrize("kind", [SweepCallback, BenchCallback])
def test_a_job_that_was_refused_beside_an_earlier_result_fails_the_sweep(kind, status, tmp_path, monkeypatch, capsys):
    """That result is another configuration's, or its own that was to be made again; it is left as it was."""
    reset_launched_jobs()
    callback = kind()
    for name in ("refused", "fine"):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / callback.file_name, {"status": status})
    callback._before = versions(tmp_path)
    endings = {"refused": Ending("failed", "a folder of its own", exit_code=2), "fine": Ending("completed")}
    ended = {(tmp_path / name, None): ending for name, ending in endings.items()}
    monkeypatch.setattr(job_module, "_ended", ended)
    monkeypatch.setattr(kind, "report", lambda self, folder: "a table")
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "callbacks": {"sweep": {"fail_fast": None}}}})
    with pytest.raises(SystemExit) as end:
        callback.on_multirun_end(config)
    assert end.value.code == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/refused: failed: a folder of its own\n"


@pytest.mark.parametrize(("words", "named"), [([], False), (["hydra.sweep.dir={folder}/${{now:%Y}}x"], True)])
def test_the_command_to_continue_names_the_folder_that_the_time_gave(words, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [word.format(folder=tmp_path) for word in words]
    monkeypatch.setattr("sys.orig_argv", ["python", "train.py", "-m", *given])
    monkeypatch.setattr(sweep_module, "write_plan", lambda folder, config: print("checking"))
    with composed(*given) as config:
        with read_write(config.hydra.sweeper):
            config.hydra.sweeper.params = {"method": "vanilla", "seed": "1,2"}
        SweepCallback().on_multirun_start(config)
        folder = config.hydra.sweep.dir
    command, *others = capsys.readouterr().out.splitlines()
    assert others == ["checking"]  # which takes a while
    assert command.endswith(f"hydra.sweep.dir={folder} sweep=here" if named else "train.py -m sweep=here")


def test_a_sweep_that_is_refused_makes_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with composed("method=vanilla", "model.weights=nowhere") as config, pytest.raises(SystemExit) as end:
        SweepCallback().on_multirun_start(config)
    assert end.value.code == 2 and capsys.readouterr().err.startswith("error: model.weights=nowhere: allowed is ")
    assert not list(tmp_path.iterdir())


def test_a_sweep_begins_and_ends_without_an_output_that_can_be_written_to(tmp_path, monkeypatch, capsys):
    def full(*words, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    forgotten = []
    monkeypatch.setattr(sweep_module, "reset_launched_jobs", lambda: forgotten.append("launched"))
    monkeypatch.setattr(sweep_module, "print", full, raising=False)
    monkeypatch.setattr(SweepCallback, "report", lambda self, folder: "a table")
    callback = SweepCallback(fail_fast=2)
    with composed() as config:
        with read_write(config.hydra.callbacks):
            config.hydra.callbacks.sweep.fail_fast = 2
        callback.on_multirun_start(config)
        assert forgotten and (tmp_path / config.hydra.sweep.dir / "fail_fast.json").exists()
        callback.on_multirun_end(config)
    assert capsys.readouterr().err == ""


def test_a_hook_that_fails_ends_the_sweep_in_one_line_with_an_error(tmp_path, monkeypatch, capsys):
    def broken(*args):
        raise TypeError("'NoneType' object is not iterable")

    callback = SweepCallback()
    callback._before = {}
    monkeypatch.setattr(SweepCallback, "report", lambda self, folder: "a table")
    monkeypatch.setattr(sweep_module, "failed_jobs", broken)
    with pytest.raises(SystemExit) as end:
        callback.on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert end.value.code == 1 and "'NoneType' object is not iterable" in capsys.readouterr().err
