"""What a sweep's process prepares for the processes that a launcher starts."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from hydra_plugins.launchers import _Launcher, _lost
from wasi.config import hardware
from wasi.errors import UserError
from wasi.runs import job_slots, launching
from wasi.runs.launching import prepare_launcher
from wasi.runs.result import versions, write_json
from wasi.runs.tuned_row import folder_of
from wasi.sweep import SweepCallback

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(compose_config, monkeypatch):
    """`config(launcher, *overrides, gpus="")`: a sweep on a machine with these GPUs, its packages there."""

    def composed(launcher, *overrides, gpus=""):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        monkeypatch.setattr(hardware, "_torch_finds_cuda", lambda: bool(gpus))
        monkeypatch.setattr(launching, "optional", lambda *_: None)
        for name in ("PYTHONPATH", "WASI_JOB_SLOTS"):
            monkeypatch.setenv(name, "")
        return compose_config(f"hydra/launcher={launcher}", *overrides, with_hydra=True)

    return composed


def offered():
    return os.environ["WASI_JOB_SLOTS"]


def test_one_job_for_each_gpu(config):
    cfg = config("joblib", gpus="2,3,5")
    assert cfg.hydra.launcher.n_jobs == 3
    prepare_launcher(cfg)
    assert offered() == "2,3,5" and os.environ["PYTHONPATH"] == str(ROOT)
    cfg = config("submitit_local", gpus="2,3")
    assert cfg.hydra.launcher.gpus_per_node == 2
    prepare_launcher(cfg)
    assert offered() == "2,3"
    assert config("ray", gpus="0").hydra.launcher.ray.remote.num_gpus == 1


def test_more_jobs_than_gpus_are_refused(config):
    with pytest.raises(UserError, match="hydra.launcher.n_jobs=4: allowed is at most 2 here, one for each GPU"):
        prepare_launcher(config("joblib", "hydra.launcher.n_jobs=4", gpus="0,1"))


@pytest.mark.parametrize("option", ["n_jobs=0", "batch_size=foo", "batch_size=0", "pre_dispatch=x", "pre_dispatch=-1"])
def test_what_joblib_would_raise_for_is_refused_before(option, config):
    with pytest.raises(UserError, match=f"^hydra.launcher.{option}: allowed is a whole number from 1 up, or "):
        prepare_launcher(config("joblib", f"hydra.launcher.{option}"))
    for refused in ("prefer=threads", "require=sharedmem", "max_nbytes=much"):
        with pytest.raises(UserError, match=f"^hydra.launcher.{refused}: allowed is "):
            prepare_launcher(config("joblib", f"++hydra.launcher.{refused}"))
    for option in ("prefer=processes", "require=null", "max_nbytes=1.5M", "max_nbytes=4096"):
        prepare_launcher(config("joblib", f"++hydra.launcher.{option}"))
    for allowed in ("n_jobs=-1", "batch_size=auto", "batch_size=3", "pre_dispatch=all", "pre_dispatch=2*n_jobs"):
        prepare_launcher(config("joblib", f"hydra.launcher.{allowed}"))


def test_on_a_cpu_as_many_as_the_cores_serve(config, monkeypatch):
    monkeypatch.setattr(hardware, "usable_cores", lambda: 8)
    assert config("joblib").hydra.launcher.n_jobs == 1
    assert config("joblib", "device.num_threads=2").hydra.launcher.n_jobs == 4
    assert config("joblib", "device=cpu", "device.num_threads=4", gpus="0,1,2").hydra.launcher.n_jobs == 2
    remote = config("ray", "device.num_threads=2").hydra.launcher.ray.remote
    assert (remote.num_gpus, remote.num_cpus) == (0, 2)
    prepare_launcher(config("joblib", "device.num_threads=2"))
    assert offered() == ""  # joblib itself starts no more than n_jobs
    prepare_launcher(config("submitit_local", "device.num_threads=4"))
    assert offered() == "cpu-0,cpu-1"


def test_a_launcher_that_is_not_installed_is_one_line(config, monkeypatch):
    cfg = config("ray")
    monkeypatch.undo()
    monkeypatch.setattr(importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    named = r"hydra/launcher=ray: allowed is with hydra-ray-launcher installed .*requirements-launchers.txt"
    with pytest.raises(UserError, match=named):
        prepare_launcher(cfg)


def test_slurm_where_there_is_none_is_one_line(config, monkeypatch, tmp_path):
    cfg = config("submitit_slurm")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^hydra/launcher=submitit_slurm: allowed is joblib or submitit_local on "):
        prepare_launcher(cfg)


TAKE = "import os, sys; from wasi.runs.job_slots import acquire_job_slot; acquire_job_slot()\n"
TAKE += "print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"


def test_no_two_processes_have_one_gpu_and_a_third_waits(tmp_path):
    env = {**os.environ, "WASI_JOB_SLOTS": "4,GPU-7", "TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": "4,GPU-7"}

    def process():
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen([sys.executable, "-c", TAKE], env=env, text=True, cwd=ROOT, **pipes)

    first, second = process(), process()
    got = [job.stdout.readline().strip() for job in (first, second)]
    assert sorted(got) == ["4", "GPU-7"]
    third = process()
    second.kill()  # its slot is free at once
    assert third.stdout.readline().strip() == got[1]
    for job in (first, second, third):
        job.kill()
        job.communicate()


def test_where_nothing_is_offered_nothing_is_taken(monkeypatch):
    monkeypatch.delenv("WASI_JOB_SLOTS", raising=False)
    job_slots.acquire_job_slot.cache_clear()
    assert job_slots.acquire_job_slot() is None
    job_slots.acquire_job_slot.cache_clear()


class _Answers(_Launcher):
    """A launcher of which the inner one gives back what a test says."""

    def __init__(self, config, loader, answers):
        super().__init__()
        self.config, self.loader, self.folder = config, loader, Path(config.hydra.sweep.dir)
        self.launcher = SimpleNamespace(launch=lambda jobs, initial_job_idx: answers)


def _returned(folder):
    job = _lost()
    job.hydra_cfg = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(folder)}}})
    return job


class _Quiet(SweepCallback):
    def report(self, folder):
        return ""


def test_a_job_that_left_nothing_fails_its_sweep_wherever_it_ran(tmp_path, capsys):
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "callbacks": {}}})
    loader = SimpleNamespace(
        load_sweep_config=lambda config, words: OmegaConf.create({"hydra": {"sweep": {"subdir": f"here-{words[0]}"}}})
    )
    callback, jobs = _Quiet(), [["seed=1"], ["seed=2"], ["seed=3"]]
    callback._before = {}
    (tmp_path / "elsewhere-1").mkdir()
    write_json(tmp_path / "elsewhere-1/result.json", {"status": "completed", "error": None})

    launching.reset_launched_jobs()
    answers = [_returned(tmp_path / "elsewhere-1"), _returned(tmp_path / "elsewhere-2"), _lost()]
    assert _Answers(config, loader, answers).launch(jobs, 0) == answers
    with pytest.raises(SystemExit) as stop:
        callback.on_multirun_end(config)
    output = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1 and output == [
        f"error: {tmp_path}/{name}: failed: it left no result.json" for name in ("elsewhere-2", "here-seed=3")
    ]
    assert folder_of(answers[2]) == tmp_path / "here-seed=3"  # a sweeper that tunes looks for its result there

    launching.reset_launched_jobs()
    _Answers(config, loader, answers[:1]).launch(jobs[:1], 0)
    callback.on_multirun_end(config)


@pytest.mark.parametrize("given", ["file", "absent"])
def test_where_slots_cannot_be_locked_is_told_in_one_line(given, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TMPDIR", str(tmp_path / given))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / given))
    monkeypatch.setenv("WASI_JOB_SLOTS", "cpu-0")
    job_slots.acquire_job_slot.cache_clear()
    with pytest.raises(UserError, match=f"^TMPDIR={tmp_path / given}: allowed is a folder in which .*wasi-job-slots"):
        job_slots.acquire_job_slot()
    job_slots.acquire_job_slot.cache_clear()


def test_a_job_that_was_refused_in_another_process_over_its_own_result_fails_the_sweep(tmp_path, monkeypatch, capsys):
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "callbacks": {}}})
    done, own = tmp_path / "done", OmegaConf.create({"hydra": {"runtime": {"output_dir": str(tmp_path / "done")}}})
    done.mkdir()
    write_json(done / "result.json", {"status": "completed", "error": None})
    callback = _Quiet()
    callback._before = versions(tmp_path)
    launching.reset_launched_jobs()
    job = _returned(done)
    monkeypatch.setattr("wasi.sweep.failed_here", lambda: {done: "dataset.root=x: allowed is a folder"})
    callback.on_job_end(own, job_return=job)  # in the job's process
    monkeypatch.setattr("wasi.sweep.failed_here", dict)
    _Answers(config, None, [job]).launch([["seed=1"]], 0)
    with pytest.raises(SystemExit) as stop:
        callback.on_multirun_end(config)
    assert stop.value.code == 1
    assert capsys.readouterr().err == f"error: {done}: failed: dataset.root=x: allowed is a folder\n"
    launching.reset_launched_jobs()
