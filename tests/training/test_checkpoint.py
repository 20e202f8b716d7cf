"""Checkpoints: the newest that can be read is continued."""


import pytest
import torch

from tests.small import applied, batch
from tests.training.test_step import optimizer
from wasi.layers.activation import TuckerState
from wasi.training import checkpoint
from wasi.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from wasi.training.step import TrainStep


def _trainer(momentum=0.9, preconditioner="step", gap=1):
    model = applied("timm_vit", "wasi", preconditioner=preconditioner)
    for state in (module for module in model.modules() if isinstance(module, TuckerState)):
        state.update_gap = gap
    swan = optimizer(model, "wasi.training.swan.Swan", lr=1e-3, momentum=momentum)
    return TrainStep(model, swan, None), torch.optim.lr_scheduler.LambdaLR(swan, lambda step: 1.0)


def _trained(folder, steps, micro_batch_size=None):
    step, scheduler = _trainer()
    step.micro_batch_size = micro_batch_size
    for number in range(steps):
        step(*batch(seed=number))
        save_checkpoint(folder, step, scheduler, Progress(step=number + 1))
    return step


def test_what_serves_several_steps_is_continued_too(tmp_path):
    states = []
    for stop in (3, None):
        step, scheduler = _trainer(preconditioner="basis", gap=4)
        for number in range(5):
            if number == stop:
                save_checkpoint(tmp_path, step, scheduler, Progress(step=number))
                assert any(name.endswith(".P") for name in step.model.state_dict())
                step, scheduler = _trainer(preconditioner="basis", gap=4)
                load_checkpoint(tmp_path, step, scheduler)
            step(*batch(seed=number))
        states.append(step.model.state_dict())
    resumed, whole = states
    assert resumed.keys() == whole.keys() and all(torch.equal(value, whole[name]) for name, value in resumed.items())
    step, scheduler = _trainer(gap=4)
    for number in range(5):
        step(*batch(seed=number))
    exact = {name: value for name, value in step.model.state_dict().items() if value.is_floating_point()}
    assert not all(torch.equal(value, whole[name]) for name, value in exact.items())
    for name, value in exact.items():
        assert (value - whole[name]).norm() <= 1e-2 * value.norm() + 1e-3, name


@pytest.fixture
def gpus(monkeypatch):
    """Stands in for the generators of two GPUs; returns what they are set to, by device."""
    found: dict[str, list[int]] = {}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([device.index, 7]).byte())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: found.update({str(device): state.tolist()}))
    return found


def _on(device):
    step, scheduler = _trainer()
    step.device = torch.device(device)
    return step, scheduler


@pytest.mark.parametrize("there", ["cuda:0", "cuda:1"])
def test_the_generator_of_the_runs_gpu_is_continued_on_whichever_it_has_then(there, tmp_path, gpus):
    save_checkpoint(tmp_path, *_on("cuda:1"), Progress(step=1))
    load_checkpoint(tmp_path, *_on(there))
    assert gpus == {there: [1, 7]}


@pytest.mark.parametrize(("before", "there"), [("cpu", "cuda:0"), ("cuda:0", "cpu")])
def test_no_gpus_generator_is_set_from_a_cpu_or_for_one(before, there, tmp_path, gpus):
    save_checkpoint(tmp_path, *_on(before), Progress(step=1))
    load_checkpoint(tmp_path, *_on(there))
    assert gpus == {}


def test_the_cpus_generator_is_continued(tmp_path):
    step, scheduler = _trainer()
    torch.manual_seed(3)
    torch.rand(5)
    save_checkpoint(tmp_path, step, scheduler, Progress(step=1))
    expected = torch.rand(5)
    torch.manual_seed(4)
    load_checkpoint(tmp_path, step, scheduler)
    assert torch.equal(torch.rand(5), expected)


def _cut(path):
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_continued_bit_for_bit_momentum_included(tmp_path, micro_batch_size):
    _trained(tmp_path, 2, micro_batch_size)
    step, scheduler = _trainer()
    step.micro_batch_size = micro_batch_size
    assert load_checkpoint(tmp_path, step, scheduler).step == 2
    step(*batch(seed=2))
    (tmp_path / "whole").mkdir()
    whole = _trained(tmp_path / "whole", 3, micro_batch_size).model.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in step.model.state_dict().items())


def _with(content, at):
    """Overwrite bytes of a file, which keeps its length; `at` is a share of that."""

    def damage(path):
        with open(path, "rb+") as file:
            file.seek(int(at * path.stat().st_size))
            file.write(content)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        _with(bytes(512), 0.5),  # numbers of a weight, which torch would load
        _with(b"\xff" * 3, 0.0),
        _with(b"\xff" * 3, 0.001),  # in the archive's pickle
        lambda path: path.write_bytes(path.read_bytes()[:-22] + bytes(22)),  # its last record, which tells where all is
    ],
)
def test_the_one_before_a_damaged_checkpoint_is_used(tmp_path, damage):
    _trained(tmp_path, 3)
    damage(tmp_path / "checkpoint.pt")
    step, scheduler = _trainer()
    assert load_checkpoint(tmp_path, step, scheduler).step == 2
    damage(tmp_path / "checkpoint_before.pt")
    assert load_checkpoint(tmp_path, step, scheduler) == Progress()


def test_a_full_disk_leaves_the_checkpoints_that_there_are(tmp_path, monkeypatch):
    step = _trained(tmp_path, 2)

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, step, _trainer()[1], Progress(step=3))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
