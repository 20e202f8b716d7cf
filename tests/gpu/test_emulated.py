"""Training on an emulated accelerator: no tensor stays behind on the CPU, and results are those of the CPU.

Shown without a GPU; what needs one is in `test_gpu.py`.
"""

from collections import Counter

import pytest
import torch

import train
from tests.gpu.emulated import DEVICE, emulated
from tests.gpu.test_gpu import OPTIMIZERS, trained
from tests.small import METHODS, applied, batch
from wasi.runs import device
from wasi.runs.job import Run
from wasi.tracking import Tracker
from wasi.training import chunked_checkpoint
from wasi.training.lean import LeanStep

# Runs, and for which files an epoch of two steps on eight layers waits more than once a step (see CONTRIBUTING.md).
RUNS = {
    "method=wasi rank.activation_selection=perplexity": {},
    "method=wasi recipe=wasi_half": {},
    "method=wasi train.monitor=true": {},
    "method=wasi method.init=output rank.batch_mode=cut optimizer=sgd": {"tucker.py": 16},
    "method=wasi optimizer=swan_momentum train.memory=lean train.step_in_backward=true": {"step.py": 4},
    "method=wsi method.update=svd": {"svd_linear.py": 16},
    "method=svd_llm train.gradient_checkpointing=true": {},
    "method=lora method.base=int8": {},
    "method=vanilla augment=deit optimizer=sgd": {},
}


def test_tensors_of_two_devices_do_not_mix():
    with emulated() as waits:
        here, there = torch.arange(4.0, device=DEVICE), torch.ones(4)
        with pytest.raises(RuntimeError, match="same device"):
            here + there
        with pytest.raises(RuntimeError, match="same device"):
            there[here.long()]
        with pytest.raises(RuntimeError, match="same device"):
            torch.stack([here[0], torch.tensor(2.0)])
        assert (here * torch.tensor(2.0)).device == here[here.long()].device == DEVICE
        there.to(DEVICE, non_blocking=True)
        assert not waits


@pytest.mark.parametrize(
    "waits_for",
    [
        lambda here: here.tolist(),
        torch.Tensor.cpu,
        torch.Tensor.nonzero,
        torch.linalg.eigh,
        torch.linalg.svd,
        torch.linalg.cholesky,
        lambda here: here[0, 0].item(),
        lambda here: bool(here.isfinite().all()),
        lambda here: here[here > 0],
        lambda here: here[torch.tensor([1])],
        lambda here: here.copy_(torch.ones(2, 2)),
        lambda here: torch.ones(2).to(DEVICE),
        lambda here: torch.ones(2, 2).copy_(here),
    ],
)
def test_what_the_host_waits_for_is_counted(waits_for):
    with emulated() as waits:
        here = torch.eye(2, device=DEVICE)
        assert not waits
        waits_for(here)
    assert sum(waits.values()) == 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_steps_follow_the_cpu(method, optimizer):
    expected, _ = trained(method, optimizer, "cpu", steps=4)
    with emulated():
        losses, step = trained(method, optimizer, DEVICE, steps=4)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert all(tensor.device == DEVICE for tensor in [*step.model.parameters(), *step.model.buffers()])


def test_what_keeps_holes_out_of_the_heap_is_not_done_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(chunked_checkpoint, "_move_gradients", lambda parameters: pytest.fail("a heap is the CPU's"))
    with emulated():
        model = applied("timm_vit", "wasi").to(DEVICE)
        sgd, sizes = torch.optim.SGD(model.parameters(), lr=0.1), {"chunk_size": 3, "segment_size": 1}
        step = LeanStep(model, sgd, lambda images: images, **sizes, storage=torch.float32)
        step(*(tensor.to(DEVICE) for tensor in batch()))


class Epochs(Tracker):
    """Notes what the host has waited for at the end of each epoch."""

    def __init__(self, waits: Counter[str]):
        self.waits, self.found = waits, []

    def log(self, step, values):
        if "val/loss" in values:
            self.found.append(self.waits.copy())


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # torch sees no accelerator
@pytest.mark.parametrize(("words", "more"), RUNS.items())
def test_a_run_follows_the_cpu_and_waits_once_a_step(words, more, compose_config, tmp_path, monkeypatch):
    small = "dataset=digits dataset.train_size=32 dataset.val_size=50 dataset.test_size=50 dataset.batch_size=16"
    fixed = "device=cpu train.measure=none train.save=none rank.basis_update_gap=4"  # steps, as many as a run has

    cfg = compose_config(*small.split(), *fixed.split(), *words.split())

    cfg.train.epochs = 2

    def metrics_of(name, tracker):
        run = Run(tmp_path / name, tracker)
        run.folder.mkdir()
        train.train(cfg, run)
        return run.metrics

    expected = metrics_of("on the CPU", Tracker())
    monkeypatch.setattr(device, "torch_device", lambda name: DEVICE)
    with emulated() as waits:
        epochs = Epochs(waits)
        metrics = metrics_of("on the device", epochs)
    for name in ("train/loss", "val/loss"):
        assert metrics[name] == pytest.approx(expected[name], rel=1e-2)
    of_an_epoch: Counter[str] = Counter()
    before, after = epochs.found
    for where, count in (after - before).items():
        of_an_epoch[where.partition(":")[0]] += count
    assert of_an_epoch.pop("evaluation.py") == 6  # at the end
    if not cfg.train.monitor:  # which reads what it reports after each epoch
        assert of_an_epoch == {"step.py": 2} | more
