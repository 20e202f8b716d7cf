"""`method.update=none`, factors as ordinary parameters, and `method.init=random`, the control of every start."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate

from tests.small import MODELS, applied, batch, build, flops
from tests.small import method as make
from wasi.layers.factored import FactoredLinear
from wasi.methods.random_init import random_factors
from wasi.models.structure import linear_sites
from wasi.training.optimizer import build_optimizer
from wasi.training.step import TrainStep


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("method", ["wsi", "wasi"])
def test_the_optimizer_alone_moves_the_factors(method, optimizer, compose_config):
    """A step is torch's own over all trainable parameters as one group; weight decay acts on both factors."""
    cfg = compose_config(f"optimizer={optimizer}", "optimizer.weight_decay=0.1").optimizer
    model = applied("timm_vit", method, update="none")
    other = copy.deepcopy(model)
    step = TrainStep(model, build_optimizer(model, cfg), None)
    del cfg.head_lr_ratio  # not torch's
    own = instantiate(cfg, _partial_=True, _convert_="all")([p for p in other.parameters() if p.requires_grad])
    for seed in range(1 if method == "wasi" else 3):  # bases of saved inputs move after a step, as ever
        images, labels = batch(seed=seed)
        step(images, labels)
        F.cross_entropy(other.train()(images), labels).backward()
        own.step()
        own.zero_grad()
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
    gram = [m.L.mT @ m.L for m in model.modules() if isinstance(m, FactoredLinear)]
    assert any(not torch.allclose(g, torch.eye(len(g)), atol=1e-5) for g in gram)


def test_without_a_subspace_step_there_is_no_subspace_work():
    images, labels = batch()
    models = (applied("timm_vit", "wsi", update=how) for how in ("none", "subspace"))
    steps = (TrainStep(model, torch.optim.SGD(model.parameters(), lr=0.1), None) for model in models)
    free, tracked = (flops(step, images, labels) for step in steps)
    assert free["flops/train_subspace"] == 0 < tracked["flops/train_subspace"]
    for same in ("flops/train_forward", "flops/train_backward"):
        assert free[same] == tracked[same]


def test_bases_of_saved_inputs_are_tracked_as_ever():
    images, labels = batch()
    model = applied("timm_vit", "wasi", update="none")
    before = copy.deepcopy(dict(model.named_buffers()))
    TrainStep(model, torch.optim.SGD(model.parameters(), lr=0.1), None)(images, labels)
    assert any("basis" in n and not torch.equal(b, before[n]) for n, b in model.named_buffers())


def test_random_factors_have_orthonormal_columns_and_the_weights_size():
    weight = torch.randn(60, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3
    squares = []
    for seed in range(200):
        left, right = random_factors(weight, 10, torch.Generator().manual_seed(seed))
        assert torch.allclose(left.mT @ left, torch.eye(10, dtype=torch.float64), atol=1e-12)
        squares.append((left @ right).square().sum())
    # Chi-squared of 400 degrees over 200 draws: the mean's relative standard error is 0.5 %.
    assert torch.stack(squares).mean() == pytest.approx(weight.square().sum().item(), rel=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_a_random_start_has_the_ranks_of_the_others_and_follows_the_seed(name):
    def factors(seed):
        model = make("wsi", init="random", seed=seed).apply(build(name), [batch()])
        return {n: m for n, m in model.named_modules() if isinstance(m, FactoredLinear)}

    first, again, other = factors(0), factors(0), factors(1)
    plain = applied(name, "wsi")
    for site in linear_sites(plain, "all"):
        layer = first[site.name]
        assert layer.weight_rank == plain.get_submodule(site.name).weight_rank
        assert torch.equal(layer.L, again[site.name].L) and torch.equal(layer.R, again[site.name].R)
        assert not torch.equal(layer.L, other[site.name].L)
    assert len({tuple(layer.R[0, :4].tolist()) for layer in first.values()}) == len(first)
