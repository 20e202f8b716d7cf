"""A step waits for its device once. Shown on a CPU, with the forms of the decompositions that accelerators get."""

import traceback

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

from tests.small import METHODS, applied, batch
from wasi.layers.activation import TuckerState
from wasi.linalg import batched, orthonormal
from wasi.training import subspace_iteration
from wasi.training.optimizer import build_optimizer
from wasi.training.step import TrainStep


class Reads(TorchDispatchMode):
    """Counts what makes the host wait: numbers that are read, and decompositions that look at their own success."""

    WAITING = ("_local_scalar_dense", "nonzero", "linalg_cholesky.", "linalg_eigh", "linalg_qr", "linalg_svd")

    def __init__(self):
        super().__init__()
        self.places = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in str(function) for name in self.WAITING):
            frames = [f for f in traceback.extract_stack() if "_ex.py" not in f.filename]
            if not any("torch/optim" in f.filename for f in frames):  # AdamW keeps its count of steps on the host
                self.places.append([f"{f.filename}:{f.lineno}" for f in frames if "/wasi/" in f.filename][-1])
        return function(*args, **(kwargs or {}))


@pytest.fixture
def as_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(batched, "is_on_cpu", lambda a: False)


@pytest.mark.parametrize("optimizer", ["torch.optim.SGD", "torch.optim.AdamW"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_reads_once(method, optimizer, as_on_an_accelerator, monkeypatch):
    model = applied("timm_vit", method)
    options = OmegaConf.create({"_target_": optimizer, "lr": 1e-3})
    step = TrainStep(model, build_optimizer(model, options), lambda images: images, 2.0, micro_batch_size=4)
    step(*batch())
    lists, tolist = [], torch.Tensor.tolist  # which a dispatch mode does not see on a CPU
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: lists.append(tensor.numel()) or tolist(tensor))
    with Reads() as reads:
        step(*batch())
    assert (lists, reads.places) == ([3], [])


@pytest.mark.parametrize("preconditioner", ["step", "basis"])
def test_training_is_the_same_with_and_without_reading(monkeypatch, preconditioner):
    losses = []
    for free in (True, False):
        monkeypatch.setattr(batched, "is_on_cpu", lambda a, free=free: free)
        model = applied("timm_vit", "wasi", torch.float64, preconditioner=preconditioner)
        for state in (module for module in model.modules() if isinstance(module, TuckerState)):
            state.update_gap = 3
        options = OmegaConf.create({"_target_": "torch.optim.SGD", "lr": 0.1})
        step = TrainStep(model, build_optimizer(model, options), lambda images: images)
        losses.append([step(*batch(dtype=torch.float64)).loss for _ in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_dependent_columns_leave_the_basis_where_it_was(as_on_an_accelerator):
    start = torch.linalg.qr(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)))[0]
    tall = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(orthonormal.independent_columns(tall[:, [0, 1, 1]], otherwise=start), start)
    moved = orthonormal.independent_columns(tall, otherwise=start)
    assert torch.allclose(moved.mT @ moved, torch.eye(3), atol=1e-5)


def test_subspace_work_is_in_float32_under_tf32(monkeypatch):
    matmul, seen = torch.backends.cuda.matmul, []
    monkeypatch.setattr(subspace_iteration, "advance", lambda states: seen.append(matmul.allow_tf32))
    model = applied("timm_vit", "wasi")
    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=0.1), None)
    matmul.allow_tf32 = True
    try:
        step.subspace.finish()
        assert seen == [False] and matmul.allow_tf32
    finally:
        matmul.allow_tf32 = False
