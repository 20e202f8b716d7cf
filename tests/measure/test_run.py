"""What a run reports of its cost is told in docs/measurement.md."""

import re
from pathlib import Path

import pytest
import torch

from tests.small import applied
from tests.small import method as make
from wasi.linalg import batched
from wasi.measure.run import count_parameters, measure_run
from wasi.training.build_step import build_step

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "measurement.md"


@pytest.mark.parametrize(("optimizer", "timed"), [("swan", True), ("adamw", False)])
def test_the_time_of_whitening_is_told_of_a_dense_model_too(optimizer, timed, compose_config):
    cfg = compose_config("method=vanilla", f"optimizer={optimizer}")
    images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    step = build_step(applied("timm_vit", "vanilla"), lambda x: x.float(), cfg)
    found = measure_run(cfg, make("vanilla"), step, (images, torch.arange(4)), ())
    assert ("time/subspace_ms_p50" in found) == timed == (found["flops/train_subspace"] > 0)


def test_a_quantised_base_has_as_many_parameters_as_the_weights_that_it_stands_for():
    """So LoRA on it does not look like a smaller net; what trains is the same."""
    dense, quantised = (count_parameters(applied("timm_vit", "lora", **base)) for base in ({}, {"base": "int8"}))
    assert quantised == dense


@pytest.mark.parametrize(("memory", "on_cpu"), [("plain", True), ("plain", False), ("lean", True)])
def test_every_metric_is_explained(memory, on_cpu, compose_config, monkeypatch):
    """And is measured with the operations that an accelerator gets, too."""
    monkeypatch.setattr(batched, "is_on_cpu", lambda a: on_cpu)
    cfg = compose_config("method=wasi", f"train.memory={memory}")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8, generator=generator)
    step = build_step(applied("timm_vit", "wasi"), lambda x: x.float() / 255, cfg)
    found = measure_run(cfg, make("wasi"), step, (images, torch.arange(8) % 5), ())
    assert len(found) > 15 and found.keys() <= set(re.findall(r"`(\w+/\w+)`", DOCUMENT.read_text()))


def test_a_run_measured_later_counts_no_first_step(compose_config):
    """GaLore computes its projection in the first step, by an SVD of the gradient that later steps do without."""
    pytest.importorskip("galore_torch")
    cfg = compose_config("method=vanilla", "optimizer=galore", "optimizer.rank=4")
    batch = torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.arange(4)
    steps = [build_step(applied("timm_vit", "vanilla"), lambda x: x.float(), cfg) for _ in range(2)]
    steps[0](*steps[0].prepare(*batch))
    trained, later = (measure_run(cfg, make("vanilla"), s, batch, t) for s, t in zip(steps, ([0.1], ()), strict=True))
    assert trained["flops/train_subspace"] == later["flops/train_subspace"] > 0
