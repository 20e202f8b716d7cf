"""One run in several processes, as `torchrun` starts them."""

import json
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from wasi.errors import UserError
from wasi.runs.command import continue_with
from wasi.runs.processes import check_alone, check_processes, without_a_folder

ROOT = __file__.rsplit("/tests/", 1)[0]
RUN = "dataset=digits model=vit_micro method=wasi dataset.train_size=97 dataset.batch_size=32 train.epochs=1"
REST = (
    "dataset.val_size=33 dataset.hflip=0.5 augment.mixup_alpha=1 "
    "train.measure=false logger=none device=cpu optimizer.lr=0.1"
)


@pytest.fixture
def of_two(monkeypatch):
    here = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    for name, value in here.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    ("measure", "in_sweep", "named"), [(False, True, "hydra.mode=MULTIRUN"), (True, False, "train.measure=full")]
)
def test_what_several_processes_cannot_do_is_refused(measure, in_sweep, named, of_two):
    with pytest.raises(UserError, match=named):
        check_processes(OmegaConf.create({"train": {"measure": measure}}), in_sweep)


def _on(device):
    return OmegaConf.create({"train": {"measure": "none", "on_oom": "fail"}, "device": {"name": device}})


def test_one_gpu_for_several_processes_is_refused(of_two):
    check_processes(_on("cuda"), in_sweep=False)
    with pytest.raises(UserError, match="device=cuda:0: allowed is cuda for 2 processes"):
        check_processes(_on("cuda:0"), in_sweep=False)


def test_one_process_may_do_anything():
    check_processes(OmegaConf.create({"train": {"measure": True}}), in_sweep=True)
    check_processes(_on("cuda:0"), in_sweep=False)


def test_the_second_process_leaves_the_first_ones_folder_to_it(of_two):
    words = without_a_folder(["train.py", "hydra.run.dir=mine", "seed=1"])
    assert words[:2] == ["train.py", "seed=1"] and "hydra.run.dir=mine" not in words


def test_what_one_process_does_is_refused(of_two):
    with pytest.raises(UserError, match="WORLD_SIZE=2: allowed is 1: a benchmark is done by one process"):
        check_alone()


def test_what_continues_names_torchrun(of_two, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=1"])
    assert continue_with({"hydra.run.dir": "here"}) == "torchrun --nproc_per_node=2 train.py seed=1 hydra.run.dir=here"


def test_two_processes_leave_one_result_equal_to_that_of_one(tmp_path):
    """Mixed and mirrored images too; the last batches have one image, so that one process has none."""
    several = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
    for name, launcher in {"one": [], "two": several}.items():
        words = [*launcher, "train.py", *RUN.split(), *REST.split(), f"hydra.run.dir={tmp_path / name}"]
        subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True, timeout=300)
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    assert two["provenance"]["processes"] == 2 and "processes" not in one["provenance"]
    assert one["fingerprint"] == two["fingerprint"]
    for result in (one, two):
        result["metrics"].pop("memory/process_rss_peak_mib")  # each process has a peak of its own
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-4)
    assert (tmp_path / "two" / "model.safetensors").exists()
