"""What a CUDA device must do: `make test-gpu`. Skipped without one; TEST_DEVICE=cpu runs the same on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests.small import METHODS, applied, batch
from wasi.layers.autocast import autocast_forward
from wasi.measure.memory import inference_peak, train_peak
from wasi.training.compile import check_compiler, compile_blocks
from wasi.training.optimizer import build_optimizer
from wasi.training.step import TrainStep

DEVICE = os.environ.get("TEST_DEVICE", "cuda")
ROOT = Path(__file__).resolve().parents[2]
OPTIMIZERS = {
    "sgd": {"_target_": "torch.optim.SGD", "lr": 0.05},
    "adamw": {"_target_": "torch.optim.AdamW", "lr": 3e-3},
    "swan": {"_target_": "wasi.training.swan.Swan", "lr": 3e-3, "momentum": 0.9},
}

pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device")


def trained(method, optimizer, device, dtype=torch.float32, steps=6, compiled=False):
    """Losses of steps on one batch, and the step."""
    model = applied("timm_vit", method).to(device)
    if compiled:
        compile_blocks(model)
    if dtype != torch.float32:
        autocast_forward(model, dtype)
    step = TrainStep(model, build_optimizer(model, OmegaConf.create(OPTIMIZERS[optimizer])), lambda x: x, clip_norm=2.0)
    images, labels = (t.to(device) for t in batch())
    return [step(images, labels).loss for _ in range(steps)], step


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_float32_follows_the_cpu(method, optimizer):
    losses, _ = trained(method, optimizer, DEVICE)
    expected, _ = trained(method, optimizer, "cpu")
    assert losses == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_follows_float32(method, optimizer):
    losses, _ = trained(method, optimizer, DEVICE, torch.bfloat16)
    expected, _ = trained(method, optimizer, DEVICE)
    assert losses == pytest.approx(expected, rel=5e-2)


@pytest.mark.parametrize("method", ["vanilla", "lora", "svd_llm", "wsi", "wasi"])
def test_compiled_steps_follow_eager_ones(method):
    check_compiler(True, torch.device(DEVICE))
    losses, _ = trained(method, "sgd", DEVICE, compiled=True)
    expected, _ = trained(method, "sgd", DEVICE)
    assert losses == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("method", ["vanilla", "wasi"])
def test_memory_is_the_devices_own(method):
    _, step = trained(method, "adamw", DEVICE, steps=2)
    images, labels = (t.to(DEVICE) for t in batch())
    peak = train_peak(step.model, step.optimizer, step, images, labels).train_metrics()
    assert peak["memory/train_peak_mib"] > peak["memory/train_weights_mib"] > 0


def test_inference_takes_the_same_memory_after_a_step_of_adamw():
    model, images = applied("timm_vit", "vanilla").to(DEVICE), batch()[0].to(DEVICE)
    inference_peak(model, images)  # workspaces of libraries stay allocated
    before = inference_peak(model, images)
    optimizer = torch.optim.AdamW(model.parameters())
    model(images).sum().backward()
    optimizer.step()
    assert inference_peak(model, images).total == pytest.approx(before.total, rel=0.02)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_is_resumed(dtype, tmp_path):
    words = "dataset=digits model=vit_micro method=wasi dataset.train_size=128 dataset.val_size=50 train.measure=false"
    options = [*words.split(), "logger=none", f"device={DEVICE}", f"device.dtype={dtype}", f"hydra.run.dir={tmp_path}"]
    script = [sys.executable, "train.py", *options]
    first = subprocess.Popen([*script, "train.epochs=400"], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (tmp_path / "checkpoint.pt").exists() and first.poll() is None:
        try:
            first.wait(1)
        except subprocess.TimeoutExpired:
            continue
    first.terminate()
    assert first.wait(60) == 143
    again = subprocess.Popen([*script, "train.epochs=400"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert any("resuming at step" in line for line in again.stdout)
    again.terminate()
    again.wait(60)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_benchmark_runs(dtype, tmp_path):
    words = "-m experiment=bench_smoke method=vanilla,wasi rank=eps_0.8 bench.rounds=1 bench.min_count=2"
    options = [*words.split(), f"device={DEVICE}", f"device.dtype={dtype}", f"hydra.sweep.dir={tmp_path}"]
    subprocess.run([sys.executable, "bench_device.py", *options], cwd=ROOT, check=True, capture_output=True)
    found = [json.loads(path.read_text()) for path in tmp_path.rglob("bench.json")]
    assert found and all(result["status"] == "completed" for result in found)
