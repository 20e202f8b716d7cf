"""Training on an emulated accelerator: no tensor stays behind on the CPU, and results are those of the CPU.

Shown without a GPU; what needs one is in `test_gpu.py`.
"""

import pytest
import torch

import train
from tests.gpu.emulated import DEVICE, emulated
from tests.gpu.test_gpu import OPTIMIZERS, trained
from tests.small import METHODS
from wasi.runs import device
from wasi.runs.job import Run

RUNS = (
    "method=wasi rank.activation_selection=perplexity",
    "method=wasi recipe=wasi_half train.monitor=true",
    "method=wasi method.init=output rank.batch_mode=cut optimizer=sgd",
    "method=wasi train.memory=lean train.step_in_backward=true optimizer=swan_momentum train.clip_norm=null",
    "method=wsi method.update=svd",
    "method=svd_llm train.gradient_checkpointing=true",
    "method=lora method.base=int8",
    "method=vanilla augment=deit optimizer=sgd",
)


def test_tensors_of_two_devices_do_not_mix():
    with emulated() as waits:
        here, there = torch.arange(4.0, device=DEVICE), torch.ones(4)
        with pytest.raises(RuntimeError, match="same device"):
            here + there
        with pytest.raises(RuntimeError, match="same device"):
            there[here.long()]
        assert here[there.long()].device == (here * torch.tensor(2.0)).device == DEVICE
        assert not waits and (here + there.to(DEVICE)).tolist() == [1, 2, 3, 4] and (here.cpu() + there).sum() == 10
        assert sum(waits.values()) == 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_steps_follow_the_cpu(method, optimizer):
    expected, _ = trained(method, optimizer, "cpu", steps=4)
    with emulated():
        losses, _ = trained(method, optimizer, DEVICE, steps=4)
    assert losses == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("words", RUNS)
def test_a_run_follows_the_cpu_and_reads_once_a_step(words, compose_config, tmp_path, monkeypatch):
    small = "dataset=digits dataset.train_size=64 dataset.val_size=50 dataset.test_size=50 dataset.batch_size=16"
    fixed = "train.measure=none train.save=nothing train.epochs=2 logger=none"
    cfg = compose_config(*small.split(), *fixed.split(), *words.split())
    runs = []
    for on_cpu in (True, False):
        run = Run(tmp_path / str(on_cpu))
        run.folder.mkdir()
        runs.append(run)
        if on_cpu:
            train.train(cfg, run)
            continue
        monkeypatch.setattr(device, "torch_device", lambda name: DEVICE)
        with emulated() as waits:
            train.train(cfg, run)
    for name in ("train/loss", "val/loss"):
        assert runs[1].metrics[name] == pytest.approx(runs[0].metrics[name], rel=1e-2)
    reads = 2 if cfg.train.step_in_backward else 1  # which looks at the loss before the backward pass, too
    assert [count for where, count in waits.items() if where.startswith("step.py")] == [8] * reads
