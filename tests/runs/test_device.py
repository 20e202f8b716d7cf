"""Threads as asked for, and back again."""

import os

import pytest
import torch
from omegaconf import OmegaConf

from wasi.errors import UserError
from wasi.runs.command import with_device_number
from wasi.runs.device import prepare_device, torch_device


@pytest.fixture(autouse=True)
def as_before():
    yield
    prepare_device(OmegaConf.create({"name": "cpu", "num_threads": None, "flush_denormals": False, "tf32": False}))


def _prepare(**options):
    plain = {"name": "cpu", "num_threads": None, "flush_denormals": True, "tf32": False}
    return prepare_device(OmegaConf.create({**plain, **options}))


def test_threads_are_set_and_given_back():
    _prepare()
    before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    _prepare(num_threads=3)
    assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (3, "3")
    _prepare()
    assert (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")) == before


def test_denormals_are_flushed_where_the_processor_can():
    tiny = torch.tensor([1e-38])
    _prepare(flush_denormals=False)
    assert (tiny * 1e-3).item() > 0
    _prepare(flush_denormals=True)
    assert ((tiny * 1e-3).item() == 0) == torch.set_flush_denormal(True)


@pytest.mark.parametrize("name", ["pi5", "pi4", "cpu"])
def test_a_raspberry_pi_is_a_cpu(name):
    assert torch_device(name).type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_cuda_is_refused_where_there_is_none():
    assert torch_device("auto").type == "cpu"
    with pytest.raises(UserError, match="device=cuda"):
        torch_device("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
@pytest.mark.parametrize(("options", "named"), [({"name": "cuda:1"}, "device=cuda:1"), ({"tf32": True}, "device.tf32")])
def test_what_a_cpu_cannot_do_is_refused(options, named):
    with pytest.raises(UserError, match=named):
        _prepare(**options)


def test_a_numbered_device_is_a_choice_and_a_name():
    words = ["train.py", "device=cuda:1", "device.dtype=bfloat16"]
    assert with_device_number(words) == ["train.py", "device=cuda", "device.name=cuda:1", "device.dtype=bfloat16"]
    assert with_device_number(["train.py", "device=cuda"]) == ["train.py", "device=cuda"]


@pytest.fixture
def chosen(monkeypatch):
    """Numbers of the GPUs, of two that there are, that became CUDA's current device."""
    numbers = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: numbers.append(device.index))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return numbers


def _started_by_torchrun(monkeypatch, number, processes):
    here = {"RANK": number, "WORLD_SIZE": processes, "LOCAL_RANK": number, "LOCAL_WORLD_SIZE": processes}
    here |= {"MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    for name, value in here.items():
        monkeypatch.setenv(name, str(value))


def test_cuda_is_the_first_gpu_also_after_a_job_on_another(chosen):
    assert [torch_device(name).index for name in ("cuda", "cuda:1", "cuda", "auto")] == chosen == [0, 1, 0, 0]


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_every_process_has_the_gpu_of_its_number(name, chosen, monkeypatch):
    _started_by_torchrun(monkeypatch, 1, processes=2)
    assert torch_device(name) == torch.device("cuda:1") and chosen == [1]


@pytest.mark.parametrize("number", [0, 2])
def test_more_processes_than_gpus_are_refused_in_each_of_them(number, chosen, monkeypatch):
    _started_by_torchrun(monkeypatch, number, processes=3)
    with pytest.raises(UserError, match="started 3 processes .device=auto: allowed is cuda with at most 2 processes"):
        torch_device("auto")
    assert chosen == []


@pytest.mark.parametrize(("shown", "run_id", "number", "is_own"), [
    (None, None, 1, False),
    ("1", None, 1, True),  # Slurm
    ("1", "none", 0, True),  # torchrun --virtual-local-rank
    ("0", "none", 1, False),  # torchrun with more processes than GPUs
])  # fmt: skip
def test_the_only_gpu_that_a_launcher_shows_a_process_is_its_own(shown, run_id, number, is_own, chosen, monkeypatch):
    _started_by_torchrun(monkeypatch, number, processes=2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"CUDA_VISIBLE_DEVICES": shown, "TORCHELASTIC_RUN_ID": run_id}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    if is_own:
        assert torch_device("cuda") == torch.device("cuda:0")
    else:
        with pytest.raises(UserError, match="at most 1 processes"):
            torch_device("cuda")
