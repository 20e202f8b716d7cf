"""Two processes with half a batch each (gloo) take the steps of one with the whole batch."""

import pytest
import torch
import torch.multiprocessing as mp
from omegaconf import OmegaConf
from torch import distributed as dist

from tests.small import METHODS, applied, batch
from tests.training.test_step import DOUBLE, outputs, sgd
from wasi.training import parallel
from wasi.training.lean import LeanStep
from wasi.training.optimizer import build_optimizer
from wasi.training.step import TrainStep


def swan(model):
    options = {"_target_": "wasi.training.swan.Swan", "lr": 1e-2, "momentum": 0.9}
    return build_optimizer(model, OmegaConf.create(options))


def trained(method, optimizer, lean=False):
    """Outputs and losses after four steps, in this process's share of the batches."""
    model = applied("timm_vit", method, DOUBLE)
    options = {"chunk_size": 3, "segment_size": 1, "storage": DOUBLE} if lean else {}
    step = (LeanStep if lean else TrainStep)(model, optimizer(model), lambda images: images, clip_norm=2.0, **options)
    losses = []
    for seed in range(4):
        images, labels = (parallel.shard(t) for t in batch(7, seed=seed % 2, dtype=DOUBLE))
        result = step(images, labels)
        assert result.count == 7
        losses.append(result.loss)
    return outputs(model), losses


CASES = [
    *((name, sgd, False) for name in METHODS if name != "asi"),  # which is wasi with a dense weight
    ("asi", swan, False),
    ("wasi", swan, False),
    ("wasi", swan, True),
]


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
    try:
        torch.save([trained(*case) for case in CASES], folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def in_two(tmp_path_factory):
    """What each of two processes ended with, by case; one pair of processes for all of them."""
    folder = tmp_path_factory.mktemp("parallel")
    mp.spawn(worker, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_two_processes_follow_one(case, in_two):
    (first, losses), (second, other_losses) = in_two[0][case], in_two[1][case]
    alone, expected = trained(*CASES[case])
    assert torch.equal(first, second) and losses == other_losses
    # whitening raises directions in which a gradient is nearly nothing, and with them its rounding
    close = 1e-6 if CASES[case][1] is swan else 1e-9
    assert torch.allclose(first, alone, rtol=close, atol=close)
    assert losses == pytest.approx(expected, rel=close)
