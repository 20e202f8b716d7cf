"""Optimizers of other packages: what they step on, resuming bit for bit, memory that is seen."""

import io

import pytest
import torch

from tests.small import applied, batch, flops
from wasi.config.validate import validate
from wasi.errors import UserError
from wasi.measure.memory import train_peak
from wasi.models.structure import linear_sites
from wasi.training.build_step import build_step

PACKAGES = {"galore": "galore_torch", "apollo": "apollo_torch", "adamw8bit": "bitsandbytes"}


PROJECTIONS = ["std", "reverse_std", "left", "right"]


def stepper(compose_config, name, model, *options):
    cfg = compose_config(f"optimizer={name}", "method=vanilla", "method.scope=all", *options)
    validate(cfg)
    return build_step(model, None, cfg)


@pytest.fixture(params=PACKAGES)
def name(request):
    pytest.importorskip(PACKAGES[request.param])
    return request.param


def test_a_resumed_run_is_the_same_bit_for_bit(name, compose_config):
    options = ["optimizer.rank=4", "optimizer.update_proj_gap=3"] if name != "adamw8bit" else []
    check_resuming(compose_config, name, options)


@pytest.mark.parametrize("proj_type", PROJECTIONS)
def test_apollo_with_a_projection_by_svd_is_resumed_bit_for_bit(proj_type, compose_config):
    pytest.importorskip("apollo_torch")
    options = ["proj=svd", f"proj_type={proj_type}", "scale_type=tensor", "rank=4", "update_proj_gap=3"]
    check_resuming(compose_config, "apollo", [f"optimizer.{option}" for option in options])


def check_resuming(compose_config, name, options):
    """Saved after two steps, when the projection (renewed every third) is in use, and loaded as a run loads it."""
    one, two = (stepper(compose_config, name, applied("timm_vit", "vanilla"), *options) for _ in range(2))
    for seed in range(2):
        one(*batch(seed=seed))
    file = io.BytesIO()
    torch.save(one.optimizer.state_dict(), file)
    file.seek(0)
    two.model.load_state_dict(one.model.state_dict())
    two.optimizer.load_state_dict(torch.load(file, weights_only=True))
    for seed in range(2, 7):
        for step in (one, two):
            step(*batch(seed=seed))
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[key]), key


@pytest.mark.parametrize("projected", ["galore", "apollo"])
def test_moments_of_linears_in_scope_are_thin_and_the_rest_is_adamw(projected, compose_config):
    pytest.importorskip(PACKAGES[projected])
    model = applied("timm_vit", "vanilla")
    step = stepper(compose_config, projected, model, "optimizer.rank=4")
    step(*batch())
    inside = {f"{site.name}.weight" for site in linear_sites(model, "all")}
    for name, parameter in model.named_parameters():
        state = step.optimizer.state[parameter]
        rank, shape = min(state["exp_avg"].shape), parameter.shape
        assert (rank == 4 and "projector" in state) if name in inside else state["exp_avg"].shape == shape, name
    projections = [s["projection"]["ortho_matrix"] for s in step.optimizer.state.values() if "projection" in s]
    thin = sum(state[key].nbytes for state in step.optimizer.state.values() for key in ("exp_avg", "exp_avg_sq"))
    peak = train_peak(model, step.optimizer, step, *batch())
    extra = 4 * len(inside) if projected == "apollo" else 0  # the last norm of each scaled gradient
    assert peak.optimizer == thin + sum(p.nbytes for p in projections) + extra


def test_a_galore_step_is_adam_in_the_gradients_leading_subspace(compose_config):
    """The first step: `W - lr scale P m / (sqrt(v) + eps)` with `P` from the gradient's SVD, by hand."""
    pytest.importorskip("galore_torch")
    model = applied("timm_vit", "vanilla")
    step = stepper(compose_config, "galore", model, "optimizer.rank=4", "optimizer.weight_decay=0")
    weight = model.blocks[0].mlp.fc2.weight  # 32 x 128: wide, so that it is projected from the left
    before = weight.detach().clone()
    images, labels = batch()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    gradient = weight.grad.clone()
    step.optimizer.step()
    u = torch.linalg.svd(gradient)[0][:, :4]
    low = u.mT @ gradient
    expected = before - 2e-3 * 0.25 * u @ (low / (low.abs() + 1e-8 / 0.001**0.5))
    assert torch.allclose(weight, expected, atol=1e-6)


@pytest.mark.parametrize("proj_type", PROJECTIONS)
@pytest.mark.parametrize("name", ["galore", "apollo"])
def test_every_projection_that_is_not_refused_can_be_stepped_with_at_any_rank(name, proj_type, compose_config):
    pytest.importorskip(PACKAGES[name])
    options = [f"optimizer.proj_type={proj_type}", *(["optimizer.scale_type=tensor"] if name == "apollo" else [])]
    for rank in (1, 31, 32, 200):  # weights are 32 x 32, 96 x 32, 128 x 32 and 32 x 128
        words = [*options, f"optimizer.rank={rank}"]
        if (name, proj_type) == ("galore", "reverse_std") and rank >= 32:
            with pytest.raises(UserError, match=f"optimizer.rank={rank}: allowed is below 32 with"):
                stepper(compose_config, name, applied("timm_vit", "vanilla"), *words)
        else:
            stepper(compose_config, name, applied("timm_vit", "vanilla"), *words)(*batch())


@pytest.mark.parametrize("projected", ["galore", "apollo"])
def test_projecting_is_subspace_work(projected, compose_config):
    """Once the projection is there, two products of a gradient with `rank` vectors (APOLLO: one); AdamW has none."""
    pytest.importorskip(PACKAGES[projected])
    images, labels = batch()
    step = stepper(compose_config, projected, applied("timm_vit", "vanilla"), "optimizer.rank=4")
    first, second = (flops(step, images, labels)["flops/train_subspace"] for _ in range(2))
    sites = linear_sites(step.model, "all")
    products = 2 if projected == "galore" else 1
    assert second == products * 2 * 4 * sum(site.in_features * site.out_features for site in sites)
    assert first > second or projected == "apollo"  # whose projection is drawn at random
    plain = stepper(compose_config, "adamw", applied("timm_vit", "vanilla"))
    assert flops(plain, images, labels)["flops/train_subspace"] == 0


def test_eight_bit_moments_are_counted_as_bytes(compose_config):
    pytest.importorskip("bitsandbytes")
    model = applied("timm_vit", "vanilla")
    step = stepper(compose_config, "adamw8bit", model)
    peak = train_peak(model, step.optimizer, step, *batch())
    small = sum(8 * p.numel() for p in model.parameters() if p.numel() < 4096)
    large = sum(2 * (p.numel() + 4 * -(-p.numel() // 256)) for p in model.parameters() if p.numel() >= 4096)
    assert small + large <= peak.optimizer <= small + large + 4096  # two maps of 256 numbers, shared or not


@pytest.mark.parametrize("projected", ["galore", "apollo"])
def test_a_method_without_dense_weights_that_train_is_refused(projected, compose_config):
    pytest.importorskip(PACKAGES[projected])
    with pytest.raises(UserError, match=f"optimizer={projected}"):
        stepper(compose_config, projected, applied("timm_vit", "lora"))


def test_a_package_that_is_not_installed_is_one_line(monkeypatch, compose_config):
    monkeypatch.setitem(__import__("sys").modules, "galore_torch", None)
    with pytest.raises(UserError, match="optimizer=galore: allowed is with galore_torch installed only"):
        stepper(compose_config, "galore", applied("timm_vit", "vanilla"))
