"""Two processes with half a batch each (gloo) take the steps of one with the whole batch, and go on with its run."""

import signal
from contextlib import suppress

import pytest
import torch
import torch.multiprocessing as mp
from omegaconf import OmegaConf
from torch import distributed as dist

from tests.conftest import SMALL, _composed
from tests.small import METHODS, applied, batch
from tests.training.test_loop import fit, stop_in
from tests.training.test_step import DOUBLE, outputs, sgd
from train import train
from wasi.errors import Interrupted, UserError
from wasi.layers.autocast import autocast_forward
from wasi.runs.job import Run
from wasi.signals import interruptible
from wasi.tracking import Tracker
from wasi.training import loop, parallel
from wasi.training.compile import COMPILE_OPTIONS, compile_blocks
from wasi.training.lean import LeanStep
from wasi.training.optimizer import build_optimizer
from wasi.training.step import TrainStep


def swan(model):
    options = {"_target_": "wasi.training.swan.Swan", "lr": 1e-2, "momentum": 0.9}
    return build_optimizer(model, OmegaConf.create(options))


def trained(method, optimizer, policy="plain"):
    """Outputs and losses after four steps, in this process's share of the batches."""
    model = applied("timm_vit", method, DOUBLE)
    lean = policy == "lean"
    options = {"chunk_size": 3, "segment_size": 1, "storage": DOUBLE} if lean else {}
    if policy == "compiled" and parallel.is_parallel():
        compile_blocks(model)
    step = (LeanStep if lean else TrainStep)(model, optimizer(model), lambda images: images, clip_norm=2.0, **options)
    losses = []
    for seed in range(4):
        if policy == "frozen" and seed == 2:
            model.blocks[1].requires_grad_(False)
        images, labels = (parallel.shard(t) for t in batch(7, seed=seed % 2, dtype=DOUBLE))
        result = step(images, labels)
        assert result.count == 7
        losses.append(result.loss)
    return outputs(model), losses


def on_single_images():
    """The state after six steps in bfloat16 on one image each, of which the second process gets none."""
    model = applied("timm_vit", "wasi")
    autocast_forward(model, torch.bfloat16)
    step = TrainStep(model, sgd(model), lambda images: images)
    for seed in range(6):
        step(*(parallel.shard(t) for t in batch(1, seed=seed)))
    return model.state_dict()


def with_dropout(folder, stop=None):
    """The state after six steps, after which the first process, unless `stop` is None, was stopped and continued."""
    for stopping in [stop, None] if stop else [None]:
        run = fit(folder, method="vanilla", epochs=2)
        for module in run.step.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.3
        if stopping and not dist.get_rank():
            stop_in(run, stopping)
        with suppress(Interrupted):
            run.run()
    assert run.resumed_from_step == (stop or 0)
    return run.step.model.state_dict()


CASES = [
    *((name, sgd, "plain") for name in METHODS if name != "asi"),  # which is wasi with a dense weight
    ("asi", swan, "plain"),
    ("wasi", swan, "plain"),
    ("wasi", swan, "lean"),
    ("wasi", swan, "frozen"),  # half of the matrices have a momentum and get no more gradients
    ("wasi", sgd, "compiled"),  # follows one process that is not compiled
]


def worker(rank, folder):
    torch.set_num_threads(1)
    COMPILE_OPTIONS.update({"backend": "aot_eager", "options": None})  # graphs are traced, and run as they are
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
    try:
        found = {"cases": [trained(*case) for case in CASES], "single images": on_single_images()}
        found |= {f"dropout, {stop}": with_dropout(folder / f"dropout {stop}", stop) for stop in (None, 4)}
        torch.save(found, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def in_two(tmp_path_factory):
    """What each of two processes ended with; one pair of processes for all cases."""
    folder = tmp_path_factory.mktemp("parallel")
    mp.spawn(worker, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_two_processes_follow_one(case, in_two):
    (first, losses), (second, other_losses) = (found["cases"][case] for found in in_two)
    alone, expected = trained(*CASES[case])
    assert torch.equal(first, second) and losses == other_losses
    # whitening raises directions in which a gradient is nearly nothing, and with them its rounding
    close = 1e-6 if CASES[case][1] is swan else 1e-9
    assert torch.allclose(first, alone, rtol=close, atol=close)
    assert losses == pytest.approx(expected, rel=close)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_process_that_never_has_an_image_updates_the_same_bases(in_two):
    """Which are updated depends on the type in which the others have computed."""
    first, second = (found["single images"] for found in in_two)
    assert equal(first, second)


def test_a_run_with_dropout_is_continued_bit_for_bit(in_two):
    for found in in_two:
        assert equal(found["dropout, None"], found["dropout, 4"])


def test_a_gradient_has_the_layout_of_its_parameter_in_all_processes(monkeypatch):
    """The strides that autograd gives it differ, and the rounding of what is computed from it with them."""
    counts = torch.tensor([[1, 1, 1], [1, 1, 1]])
    monkeypatch.setattr(parallel, "all_reduce_sum", lambda values: values if values.is_floating_point() else counts)
    parameters = [torch.nn.Parameter(torch.rand(1, 3).mT), torch.nn.Parameter(torch.rand(2, 3).mT)]
    parameters.append(torch.zeros(1, 1).expand(3, 2))  # as coordinates
    for given in ("none", "rows", "columns"):
        for parameter in parameters:
            new = torch.rand(parameter.shape)
            parameter.grad = {"none": None, "rows": new, "columns": new.mT.contiguous().mT}[given]
        before = [parameter.grad for parameter in parameters]
        assert not parallel.sum_gradients(parameters, [None] * 3)
        assert [p.grad.stride() for p in parameters] == [(1, 3), (1, 3), (2, 1)]
        for parameter, old in zip(parameters, before, strict=True):
            assert torch.equal(parameter.grad, torch.zeros(parameter.shape) if old is None else old)


def test_batch_norms_which_would_take_statistics_of_a_part_of_the_batch_are_refused(monkeypatch):
    model = applied("timm_vit", "vanilla")
    model.fc_norm = torch.nn.BatchNorm1d(32)
    TrainStep(model, sgd(model), None)
    monkeypatch.setattr(parallel, "is_parallel", lambda: True)
    monkeypatch.setattr(parallel.dist, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match="WORLD_SIZE=2: allowed is 1 for a model with batch norms"):
        TrainStep(model, sgd(model), None)


def test_a_model_is_sent_in_contiguous_tensors_and_keeps_its_layout(monkeypatch):
    """NCCL refuses others: "Tensors must be contiguous"."""
    model = torch.nn.Linear(3, 2)
    model.weight = torch.nn.Parameter(torch.zeros(3, 2).mT)

    def broadcast(tensor, src):
        assert tensor.is_contiguous()
        tensor.fill_(7)

    monkeypatch.setattr(parallel, "is_parallel", lambda: True)
    monkeypatch.setattr(parallel.dist, "broadcast", broadcast)
    parallel.broadcast_model(model)
    assert all((value == 7).all() for value in model.state_dict().values()) and model.weight.stride() == (1, 2)


STOP = 4  # in the second of the epochs, which have three steps each
RUNS = {
    "sgd": ("method=vanilla", "optimizer=sgd", "optimizer.momentum=0.9", "optimizer.lr=0.05", "dataset.hflip=0.5"),
    "lean": ("method=wasi", "optimizer=swan_momentum", "optimizer.lr=0.001", "train.memory=lean", "train.select=best"),
}


class Stopping(Tracker):
    """Stops the process once, as a scheduler does, after a step."""

    def log(self, step, values):
        if step == STOP and "lr" in values:
            signal.raise_signal(signal.SIGTERM)


def on_digits(folder, words, tracker):
    """What train.py does with vit_micro on 97 digits; the step it began at, and validation loss after each epoch."""
    sizes = ("train_size=97", "val_size=33", "test_size=50", "batch_size=40")
    options = ("device=cpu", "device.num_threads=1", "train.epochs=3", "train.measure=none", "train.save=none")
    cfg = _composed("config", False, (*SMALL, *(f"dataset.{size}" for size in sizes), *options, *words)).copy()
    folder.mkdir(exist_ok=True)
    run = Run(folder, tracker)
    with suppress(Interrupted), interruptible():
        train(cfg, run)
    return run.resumed_from_step, [epoch["val/loss"] for epoch in run.history], run.metrics.get("test/loss")


def stopped_while_it_loads(batches):
    """Make `train_batches` as it is until a signal arrives, before the batch of the step after `STOP`."""
    loaded = 0

    def load(*arguments, **options):
        nonlocal loaded
        for found in batches(*arguments, **options):
            loaded += 1
            if loaded == STOP + 1:
                signal.raise_signal(signal.SIGTERM)
            yield found

    return load


def resuming_worker(rank, folder):
    """Each run whole, stopped in two processes and continued by one, stopped in one and continued by two.

    One is also stopped by a signal that the second process alone gets, while it loads a batch.
    """
    torch.set_num_threads(1)

    def alone(name, words, tracker):
        return None if rank else on_digits(folder / name, words, tracker)

    def together(name, words, tracker):
        store = dist.FileStore(str(folder / f"store {len(found)}"), 2)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
        try:
            return on_digits(folder / name, words, Tracker() if rank else tracker)
        finally:
            dist.destroy_process_group()

    found = {}
    for name, words in RUNS.items():
        found[name, "whole"] = alone(f"{name} whole", words, Tracker())
        for case, first, second in (("two then one", together, alone), ("one then two", alone, together)):
            found[name, f"{case}, stopped"] = first(f"{name} {case}", words, Stopping())
            found[name, case] = second(f"{name} {case}", words, Tracker())
    with pytest.MonkeyPatch.context() as patch:
        if rank:
            patch.setattr(loop, "train_batches", stopped_while_it_loads(loop.train_batches))
        found["loading, stopped"] = together("loading", RUNS["sgd"], Tracker())
    found["loading"] = together("loading", RUNS["sgd"], Tracker())
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resumed")
    mp.spawn(resuming_worker, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_a_signal_to_one_process_that_loads_a_batch_stops_all_after_the_same_step(resumed):
    _, losses, tested = resumed[0]["sgd", "whole"]
    assert resumed[0]["loading"] == resumed[1]["loading"]
    begun, *after = resumed[0]["loading"]
    assert begun == STOP + 1 and [*after[0], after[1]] == pytest.approx([*losses, tested], rel=1e-4)


@pytest.mark.parametrize("case", ["two then one", "one then two"])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_continued_by_another_number_of_processes(name, case, resumed):
    begun, losses, tested = resumed[0][name, "whole"]
    assert begun == 0 and len(losses) == 3
    begun, before, _ = resumed[0][name, f"{case}, stopped"]
    assert begun == 0 and before == pytest.approx(losses[:1], rel=1e-4)
    begun, *after = resumed[0][name, case]
    assert begun == STOP and [*after[0], after[1]] == pytest.approx([*losses, tested], rel=1e-4)
    assert losses[1] != pytest.approx(losses[2], rel=1e-3)  # a step more or less would be seen
    if case == "one then two":
        assert resumed[1][name, case] == resumed[0][name, case]
