"""Inference as deployed: adapters merged into the weights, with training untouched by it."""

import copy

import pytest
import torch
from torch import nn

from tests.small import MODELS, applied, batch
from tests.small import method as make
from tests.training.test_step import optimizer
from wasi.layers.activation import TuckerState
from wasi.layers.adapter import Adapter, AdapterLinear, FactoredAdapterLinear
from wasi.layers.factored import FactoredLinear
from wasi.measure.flops import inference_flops
from wasi.measure.memory import inference_peak
from wasi.measure.run import counts
from wasi.models.modes import eval_mode
from wasi.models.structure import linear_sites
from wasi.training.step import TrainStep

ADAPTERS = {"lora": (AdapterLinear, nn.Linear), "svd_llm": (FactoredAdapterLinear, FactoredLinear)}


def stepper(model):
    return TrainStep(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5), None)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ADAPTERS)
def test_merged_outputs_are_the_unmerged_ones(name, method):
    model, (images, labels) = applied(name, method, torch.float64), batch(dtype=torch.float64)
    step = stepper(model)
    for _ in range(3):
        step(images, labels)
    before, after = ADAPTERS[method]
    sites = linear_sites(model, "all")
    with eval_mode(model):
        unmerged = model(images)
        assert all(type(model.get_submodule(site.name)) is before for site in sites)
        with make(method).deployed(model):
            assert all(type(model.get_submodule(site.name)) is after for site in sites)
            assert torch.allclose(model(images), unmerged, rtol=1e-10, atol=1e-12)
    with eval_mode(model):
        for adapter in (m for m in model.modules() if isinstance(m, Adapter)):
            adapter.B.zero_()
        assert not torch.allclose(model(images), unmerged, atol=1e-6)  # the adapters did matter


@pytest.mark.parametrize("method", ADAPTERS)
def test_training_goes_on_bit_for_bit(method):
    plain, interrupted = applied("timm_vit", method), applied("timm_vit", method)
    steps = stepper(plain), stepper(interrupted)
    modules, parameters = list(interrupted.modules()), list(interrupted.parameters())
    for _ in range(3):
        with make(method).deployed(interrupted), eval_mode(interrupted):
            interrupted(batch()[0])
        for step in steps:
            step(*batch())
    assert list(interrupted.modules()) == modules
    assert all(a is b for a, b in zip(interrupted.parameters(), parameters, strict=True))
    for key, value in plain.state_dict().items():
        assert torch.equal(value, interrupted.state_dict()[key]), key


@pytest.mark.parametrize("method", ADAPTERS)
def test_it_comes_back_after_an_error_and_a_shared_layer_stays_one(method):
    model = applied("timm_vit", method, scope="mlp")
    model.blocks[1].mlp.fc1 = shared = model.blocks[0].mlp.fc1
    with pytest.raises(KeyError), make(method).deployed(model):
        assert model.blocks[1].mlp.fc1 is model.blocks[0].mlp.fc1 is not shared
        raise KeyError
    assert model.blocks[1].mlp.fc1 is model.blocks[0].mlp.fc1 is shared


def test_lora_is_deployed_as_the_dense_model_that_it_started_from():
    vanilla, lora = applied("timm_vit", "vanilla"), applied("timm_vit", "lora")
    images = batch()[0]
    numbers = sum(p.numel() for p in vanilla.parameters())
    with make("lora").deployed(lora):
        assert sum(p.numel() for p in lora.parameters()) == numbers
        assert inference_flops(lora, images) == inference_flops(vanilla, images)
        assert inference_peak(lora, images).weights == inference_peak(vanilla, images).weights
    assert inference_flops(lora, images) > inference_flops(vanilla, images)


@pytest.mark.parametrize("preconditioner", ["step", "basis"])
def test_factors_are_deployed_without_what_trains_them(preconditioner):
    model = applied("timm_vit", "wasi", preconditioner=preconditioner)
    for state in (module for module in model.modules() if isinstance(module, TuckerState)):
        state.update_gap = 4
    twin = copy.deepcopy(model)
    step, again = (TrainStep(net, optimizer(net, "wasi.training.swan.Swan", lr=1e-3), None) for net in (model, twin))
    for each in (step, again):
        each(*batch())  # after which the bases move
        each(*batch())
    training = {name for name, tensor in model.named_buffers() if tensor is not None}
    assert any(name.endswith(".P") for name in training) == (preconditioner == "basis")
    with make("wasi").deployed(model), eval_mode(model):
        assert not list(model.named_buffers())
        numbers = sum(p.numel() for p in model.parameters())
        assert inference_peak(model, batch()[0]).weights == 4 * numbers
    assert {name for name, _ in model.named_buffers()} == training
    for each in (step, again):
        each(*batch(seed=1))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("merge", [True, False])
def test_a_run_counts_inference_as_the_option_says(merge):
    vanilla, lora = applied("timm_vit", "vanilla"), applied("timm_vit", "lora")
    images, labels = batch()
    dense = counts(make("vanilla"), stepper(vanilla), "all", (images, labels), images)
    got = counts(make("lora", merge=merge), stepper(lora), "all", (images, labels), images)
    for name in ("flops/inference", "memory/paper_inference_mib"):
        assert (got[name] == dense[name]) == merge and got[name] >= dense[name]
    assert got["flops/train_forward"] > dense["flops/train_forward"]
