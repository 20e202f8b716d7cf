"""Which torch `make` takes: a Pi's, a Jetson's, a laptop's, and one that is there already."""

import subprocess
import sys
from pathlib import Path

import pytest

from wasi import torch_for as module
from wasi.torch_for import CONSTRAINTS, has_nvidia, torch_for

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("machine", "constraints", "why"),
    [
        (("Linux", "aarch64", False, None), CONSTRAINTS, "last CPU builds"),  # a Raspberry Pi
        (("Linux", "aarch64", True, None), (), "NVIDIA"),  # Jetson, Grace
        (("Linux", "aarch64", False, "2.14.1+cpu"), (), "2.14.1+cpu is installed already"),
        (("Linux", "x86_64", False, None), (), "as the registry has it"),
        (("Linux", "armv7l", False, None), (), "as the registry has it"),
        (("Darwin", "arm64", False, None), (), "as the registry has it"),
    ],
)
def test_what_is_taken_and_why(machine, constraints, why):
    found, output = torch_for(*machine)
    assert found == constraints and why in output and "\n" not in output


@pytest.mark.parametrize("sign", ["driver", "tool", None])
def test_an_nvidia_device_is_told_by_its_driver(sign, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SIGNS", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setattr(module, "which", lambda tool: "/usr/bin/nvidia-smi" if sign == "tool" else None)
    if sign == "driver":
        (tmp_path / "nvidiactl").touch()
    assert has_nvidia() == (sign is not None)


def test_the_command_needs_nothing_installed_and_leaves_this_machines_torch():
    done = subprocess.run(
        [sys.executable, "-S", "-m", "wasi.torch_for"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "torch" in done.stderr
    command = [sys.executable, "-m", "wasi.torch_for"]
    here = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert here.stdout.strip() == "" and "stays" in here.stderr


def test_make_asks_it_before_it_installs():
    recipe = (ROOT / "Makefile").read_text()
    assert "-m wasi.torch_for > $(VENV)/constraints.txt" in recipe and "-c $(VENV)/constraints.txt" in recipe
