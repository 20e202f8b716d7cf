"""`sweep.fail_fast=N`: what counts as the same reason, and a sweep that stops."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from wasi.errors import UserError
from wasi.runs.fail_fast import check_fail_fast, enough_failures, note_results_before, reason_of
from wasi.runs.result import write_json

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    *("model=vit_micro", "model.weights=random", "logger=none", "train.measure=false", "device=cpu", "method=vanilla"),
    *("dataset=digits", "dataset.train_size=64", "dataset.val_size=32", "dataset.batch_size=32", "train.epochs=1"),
)


@pytest.mark.parametrize("value", [0, -1, 1.5, "two", True])
def test_what_is_no_number_of_failures_is_refused(value):
    with pytest.raises(UserError, match="sweep.fail_fast=.*a whole number from 1 up"):
        check_fail_fast(value, in_sweep=True)


def test_a_single_run_has_nothing_to_stop():
    with pytest.raises(UserError, match=r"for a sweep \(-m\) only"):
        check_fail_fast(2, in_sweep=False)


def test_numbers_do_not_make_another_reason():
    def reason(error, status="failed"):
        return reason_of({"status": status, "error": error})

    assert reason("ValueError: 3 of 4.5") == reason("ValueError: 12 of 7") != reason("KeyError: 3 of 4.5")
    assert reason("out of memory: A: 3 GiB") == reason("out of memory: B: no room")
    assert reason("diverged: training loss is nan", "diverged") == reason("diverged: gradient", "diverged")


def hydra_config(folder: Path, limit: int | None, sweeper: str = "BasicSweeper"):
    sections = {"callbacks": {"sweep": {"fail_fast": limit}}, "sweep": {"dir": str(folder)}}
    return OmegaConf.create({**sections, "sweeper": {"_target_": f"x.{sweeper}"}, "mode": "MULTIRUN"})


@pytest.mark.parametrize("clock", [0, 2**31])  # set back, or ahead, before the jobs ran
def test_failures_of_this_command_are_counted_by_reason(clock, tmp_path):
    def job(name, status, error, seconds=1.5):
        (tmp_path / name).mkdir(exist_ok=True)
        content = {"status": status, "error": error, "provenance": {"wall_seconds": seconds}}
        write_json(tmp_path / name / "result.json", content)
        os.utime(tmp_path / name / "result.json", (clock, clock))

    for name in ("before", "again"):
        job(name, "failed", "ValueError: 2")
    note_results_before(hydra_config(tmp_path, 2))
    job("again", "failed", "ValueError: 2", seconds=1.6)
    job("b", "failed", "KeyError: 1")
    job("c", "completed", None)
    assert enough_failures(hydra_config(tmp_path, 2)) is None
    job("e", "failed", "ValueError: 3")
    assert enough_failures(hydra_config(tmp_path, 2)) == (2, "ValueError: #")
    assert enough_failures(hydra_config(tmp_path, 3)) is None and enough_failures(hydra_config(tmp_path, None)) is None
    for name in "fgh":
        job(name, "diverged", "diverged: training loss is nan")
    assert enough_failures(hydra_config(tmp_path, 3)) == (3, "diverged")
    assert enough_failures(hydra_config(tmp_path, 3, "TunedSweeper")) is None


def test_a_sweep_stops(tmp_path):
    def sweep(*words):
        command = [sys.executable, str(ROOT / "train.py"), "-m", *TINY, "sweep=a", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)

    seeds, broken = "seed=1,2,3,4", "dataset.batch_size=1000"
    done = sweep(seeds, broken, "train.micro_batch_size=3,7", "sweep.fail_fast=2")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert len(list(tmp_path.rglob("result.json"))) == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: stopped after 2 failures of one kind, sweep.fail_fast=2: train.micro_batch_size=#")
    assert "sweep.fail_fast=2" in done.stdout.splitlines()[0]
    refused = sweep("seed=1,2", "sweep.fail_fast=0")
    assert refused.returncode == 2 and refused.stderr.startswith("error: sweep.fail_fast=0: allowed is")
