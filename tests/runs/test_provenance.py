"""A result says which code made it, where and when."""

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from wasi.config import hardware
from wasi.runs import provenance as module
from wasi.runs.provenance import gpu, provenance

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def looked_up_anew():
    module.code_version.cache_clear()
    yield
    module.code_version.cache_clear()


def test_what_is_known_at_the_start():
    found = provenance()
    assert {"python", "torch", "torchvision", "timm", "hydra", "wandb", "fvcore", "wasi"} <= set(found["versions"])
    assert found["machine"]["cpu_count"] >= found["machine"]["cpu_usable"] >= 1
    assert datetime.fromisoformat(found["start"]).tzinfo is not None
    json.dumps(found, allow_nan=False)


def test_the_commit_is_the_checkout_s():
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    found = provenance()
    assert found.get("git_commit") == (head.stdout.strip() if head.returncode == 0 else None)
    assert isinstance(found.get("git_dirty", False), bool)


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setattr(module, "_git", lambda *_: None)
    assert not {"git_commit", "git_dirty"} & set(provenance())


def test_a_dirty_checkout_is_told_from_a_clean_one(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (tmp_path / "file").write_text("one")
    (tmp_path / "multirun").mkdir()
    (tmp_path / "multirun" / ".gitkeep").touch()
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(module, "_root", lambda: tmp_path)
    (tmp_path / "multirun" / ".gitkeep").unlink()  # `rm -rf multirun` clears away results
    os.utime(tmp_path / "file", (1, 1))  # for which `git status` would lock and write the index
    index = (tmp_path / ".git" / "index").read_bytes()
    module.code_version.cache_clear()
    assert module.code_version()["git_dirty"] is False
    assert (tmp_path / ".git" / "index").read_bytes() == index
    (tmp_path / "file").write_text("two")
    assert module.code_version()["git_dirty"] is False  # what this process has loaded
    module.code_version.cache_clear()
    assert module.code_version()["git_dirty"] is True


class Driver:
    """A stand-in for NVML."""

    def __init__(self, name):
        self.nvmlInit_v2 = self.nvmlShutdown = lambda: 0

    def nvmlSystemGetDriverVersion(self, text, size):
        text.value = b"580.95.05"

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = 8


def NoDriver(name):
    raise OSError(f"{name}: cannot open shared object file")


def test_a_gpu_is_named_by_the_runs_that_had_it(monkeypatch):
    cuda = SimpleNamespace(is_initialized=lambda: True, get_device_name=lambda: "H100")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="13.0")))
    monkeypatch.setattr(hardware.ctypes, "CDLL", NoDriver)
    assert gpu("cuda") == {"cuda": "H100", "cuda_version": "13.0"} and gpu("cpu") == {}
    monkeypatch.setattr(hardware.ctypes, "CDLL", Driver)
    assert gpu("cuda") == {"cuda": "H100", "cuda_driver": "580.95.05", "cuda_version": "13.0"} and gpu("cpu") == {}
    assert hardware._gpu_count() == 8
