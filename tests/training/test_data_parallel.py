"""Two processes with half a batch each (gloo)."""

import os

import pytest
import torch
import torch.multiprocessing as mp

from tests.small import applied, batch
from tests.training.test_step import DOUBLE, outputs, sgd
from wasi.training.step import TrainStep


def worker(rank, folder, method):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        model = applied("timm_vit", method, DOUBLE)
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        step = TrainStep(parallel, sgd(model), None, clip_norm=2.0)
        losses = []
        for seed in range(4):
            images, labels = (t.chunk(2)[rank] for t in batch(seed=seed % 2, dtype=DOUBLE))
            losses.append(step(images, labels).loss)
        torch.save((model.state_dict(), losses), folder / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("method", ["wasi", "wsi"])
def test_two_processes_stay_equal_and_average_gradients(tmp_path, method):
    mp.spawn(worker, (tmp_path, method), nprocs=2)
    (first, losses), (second, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    parameters = [name for name, _ in applied("timm_vit", method, DOUBLE).named_parameters()]
    assert all(torch.equal(first[name], second[name]) for name in parameters)
    assert losses[2] < losses[0]
    if method == "wsi":  # dense inputs: the averaged gradient is that of the whole batch
        alone = applied("timm_vit", method, DOUBLE)
        step = TrainStep(alone, sgd(alone), None, clip_norm=2.0)
        for seed in range(4):
            step(*batch(seed=seed % 2, dtype=DOUBLE))
        reached = applied("timm_vit", method, DOUBLE)
        reached.load_state_dict(first)
        assert torch.allclose(outputs(reached), outputs(alone), atol=1e-9)
