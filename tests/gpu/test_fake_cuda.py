"""Whole steps on CUDA by fake tensors: all are on the device and of the type that is wanted, and none is read."""

import pytest
import torch
from omegaconf import OmegaConf
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from tests.gpu.fake_cuda import READ, fake_cuda, on_cuda
from tests.gpu.test_gpu import OPTIMIZERS
from tests.small import METHODS, applied, batch
from wasi.layers.autocast import autocast_forward
from wasi.training.lean import LeanStep
from wasi.training.optimizer import build_optimizer
from wasi.training.step import TrainStep

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="torch is built without CUDA")

LEAN = {"chunk_size": 3, "segment_size": 1, "storage": torch.bfloat16}


def test_tensors_of_two_devices_do_not_mix_and_none_is_read():
    with fake_cuda():
        here, there = torch.ones(3, 3, device="cuda"), torch.ones(3, 3)
        with pytest.raises(Exception, match="device"):
            here + there
        for read in (lambda x: x[0, 0].item(), lambda x: bool(x.any()), torch.Tensor.nonzero):
            with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
                read(here)


def test_autocast_is_that_of_cuda():
    with fake_cuda(), torch.autocast("cuda", torch.bfloat16):
        here = torch.ones(3, 3, device="cuda")
        assert ((here @ here).dtype, (here @ here).softmax(0).dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(("kind", "options", "optimizer"), [(TrainStep, {}, "sgd"), (LeanStep, LEAN, "swan")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_on_cuda_alone(method, dtype, kind, options, optimizer):
    model, batch_here = applied("timm_vit", method), batch()
    with fake_cuda() as mode:
        on_cuda(model, mode)
        if dtype != torch.float32:
            autocast_forward(model, dtype)
        found = build_optimizer(model, OmegaConf.create(OPTIMIZERS[optimizer]))
        step = kind(model, found, lambda images: images, 2.0, **options)
        assert step(*(mode.from_tensor(tensor).to("cuda") for tensor in batch_here)).loss == READ[0]
    assert all(tensor.is_cuda for tensor in [*model.parameters(), *model.buffers()])
