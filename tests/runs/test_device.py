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


@pytest.mark.parametrize(
    ("name", "own", "index"), [("auto", None, None), ("cuda", None, None), ("cuda:1", None, 1), ("auto", "1", 1)]
)
def test_the_current_device_is_set_only_where_one_is_meant(name, own, index, monkeypatch):
    """`torch.cuda.set_device` refuses a device without an index, as `cuda` is."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(device.index))
    if own is not None:
        monkeypatch.setenv("LOCAL_RANK", own)
    assert torch_device(name) == (torch.device("cuda") if index is None else torch.device("cuda", index))
    assert chosen == ([] if index is None else [index])
