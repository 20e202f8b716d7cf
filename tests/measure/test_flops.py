"""fvcore's forward pass against torch's dispatch counter, and the phases of real steps against counts by hand."""

import logging

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn

from tests import small
from wasi.measure import run as measure_run
from wasi.measure.dispatch_flops import flop_counter
from wasi.measure.flops import inference_flops
from wasi.models.modes import evaluating, without_fast_path
from wasi.training.checkpointing import checkpoint_blocks
from wasi.training.lean import LeanStep
from wasi.training.optimizer import build_optimizer
from wasi.training.step import TrainStep

SGD = "torch.optim.SGD"


def counted(run) -> int:
    with flop_counter() as counter:
        run()
    return counter.get_total_flops()


def build(model: str, name: str, target: str = SGD, checkpointed: bool = False, kind=TrainStep, **options):
    images, labels = small.batch(6)
    net = small.method(name, "all").apply(small.build(model), [(images, labels)])
    if checkpointed:
        checkpoint_blocks(net)
    optimizer = build_optimizer(net, OmegaConf.create({"_target_": target, "lr": 1e-3}))
    return net, kind(net, optimizer, lambda x: x, 2.0, **options), images, labels


def flops_of(step, images, labels):
    return measure_run.flops(step, images, labels, images)


@pytest.mark.parametrize("model", small.MODELS)
@pytest.mark.parametrize("name", small.METHODS)
def test_fvcores_forward_pass_is_the_dispatch_counters(model, name):
    net, step, images, labels = build(model, name)
    flops = flops_of(step, images, labels)
    with evaluating(net), without_fast_path():
        assert flops["flops/inference"] == flops["flops/train_forward"] == counted(lambda: net(images))
    parts = [flops[f"flops/train_{part}"] for part in ("forward", "backward", "subspace")]
    assert sum(parts) == flops["flops/train_step"] and min(parts[:2]) > 0
    assert (parts[2] > 0) == (name in ("wasi", "wsi", "asi"))


@pytest.mark.parametrize("model", small.MODELS)
def test_vanillas_backward_pass_is_autograds(model):
    net, step, images, labels = build(model, "vanilla")
    net.train()
    loss = F.cross_entropy(net(images), labels)
    expected = counted(loss.backward)
    assert flops_of(step, images, labels)["flops/train_backward"] == expected


@pytest.mark.parametrize("name", ["vanilla", "wasi", "lora"])
def test_what_is_repeated_counts_as_backward(name):
    plain, checkpointed = (build("timm_vit", name, checkpointed=c) for c in (False, True))
    lean = build("timm_vit", name, kind=LeanStep, chunk_size=3, segment_size=2, storage=torch.float32)
    before = flops_of(*plain[1:])
    for _, *run in (checkpointed, lean):
        flops = flops_of(*run)
        assert flops["flops/train_forward"] == before["flops/train_forward"]
        assert flops["flops/train_backward"] > before["flops/train_backward"]


def test_the_optimizers_arithmetic_is_left_out_but_for_whitening():
    subspace = {}
    for target in ("torch.optim.AdamW", "wasi.training.swan.Swan"):
        _, *run = build("timm_vit", "vanilla", target)
        flops = flops_of(*run)
        subspace[target] = flops["flops/train_subspace"]
        assert flops["flops/train_backward"] < 2.5 * flops["flops/train_forward"]
    assert subspace["torch.optim.AdamW"] == 0 < subspace["wasi.training.swan.Swan"]


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def test_a_function_without_a_rule_is_told(caplog):
    class Net(nn.Module):
        def forward(self, x):
            return Doubled.apply(x)

    with caplog.at_level(logging.WARNING):
        inference_flops(Net(), torch.zeros(1, 3))
    assert "no rule for Doubled" in caplog.text
