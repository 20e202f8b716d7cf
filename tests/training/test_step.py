"""A whole step, in every way the options allow it to be taken."""

import copy

import pytest
import torch
from omegaconf import OmegaConf

from tests.small import METHODS, MODELS, applied, batch
from wasi.deferred import eager
from wasi.errors import Diverged
from wasi.layers.factored import trainable_factors
from wasi.linalg import batched
from wasi.training import subspace_iteration
from wasi.training.gradient_checkpointing import checkpoint_blocks
from wasi.training.optimizer import build_optimizer
from wasi.training.step import TrainStep
from wasi.training.swan import Swan

DOUBLE = torch.float64


def optimizer(model, target="torch.optim.SGD", **options):
    return build_optimizer(model, OmegaConf.create({"_target_": target, **options}))


def sgd(model, **options):
    return optimizer(model, **{"lr": 0.05, "weight_decay": 1e-2, **options})


def train(model, optimizer, steps=3, **options):
    step = TrainStep(model, optimizer, None, **{"clip_norm": 2.0, **options})
    results = [step(*batch(seed=s, dtype=next(model.parameters()).dtype)) for s in range(steps)]
    return step, results


def outputs(model):
    with torch.no_grad():
        return model.eval()(batch(seed=99, dtype=next(model.parameters()).dtype)[0])


@pytest.mark.parametrize("name", MODELS)
def test_sgd_on_coordinates_is_algorithm_1_on_the_factors_but_for_quadratic_terms(name):
    """Both routes of plain SGD make the same step but for terms in lr^2: halving the rate quarters the difference."""
    differences = []
    for lr in (2e-3, 1e-3):
        model = applied(name, "wasi", DOUBLE)
        other = copy.deepcopy(model)
        a, _ = train(model, sgd(model, lr=lr), steps=1, clip_norm=None)
        plain = torch.optim.SGD([p for p in other.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
        b = TrainStep(other, plain, None)
        for group in a.optimizer.param_groups:
            group["weight_decay"] = 0.0
        model.load_state_dict(other.state_dict())
        a(*batch(dtype=DOUBLE)), b(*batch(dtype=DOUBLE))
        assert a.subspace.coordinate_layers and not a.subspace.tangent
        assert b.subspace.tangent and not b.subspace.coordinate_layers
        differences.append((outputs(model) - outputs(other)).norm().item())
    assert 3 < differences[0] / differences[1] < 5


def test_left_factors_stay_orthonormal_over_many_steps():
    model = applied("timm_vit", "wasi", DOUBLE)
    train(model, sgd(model, lr=0.1), steps=12)
    for layer in trainable_factors(model):
        assert (layer.L.mT @ layer.L - torch.eye(layer.weight_rank, dtype=DOUBLE)).norm() < 1e-3


def test_weight_decay_acts_on_the_product():
    model = applied("timm_vit", "wasi", DOUBLE)
    layer = model.blocks[0].mlp.fc1
    before = (layer.L @ layer.R).detach().clone()
    step = TrainStep(model, sgd(model, lr=1e-12, weight_decay=1e10), None)
    step(*batch(dtype=DOUBLE))
    assert torch.allclose(layer.L @ layer.R, before * 0.99, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_gradient_checkpointing_changes_nothing(name, method):
    model = applied(name, method, DOUBLE)
    other = copy.deepcopy(model)
    checkpoint_blocks(other)
    train(model, sgd(model)), train(other, sgd(other))
    assert torch.allclose(outputs(model), outputs(other), atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_accumulation_gives_the_whole_batchs_step(method):
    model = applied("timm_vit", method, DOUBLE)
    other = copy.deepcopy(model)
    _, a = train(model, sgd(model))
    _, b = train(other, sgd(other), micro_batch_size=2)
    assert torch.allclose(outputs(model), outputs(other), atol=1e-9)
    assert [r.correct for r in a] == [r.correct for r in b]


@pytest.mark.parametrize("method", ["vanilla", "wasi"])
def test_a_diverged_step_changes_no_weight(method):
    model = applied("timm_vit", method)
    before = copy.deepcopy(model.state_dict())
    images, labels = batch()
    step = TrainStep(model, sgd(model), None, clip_norm=2.0)
    with pytest.raises(Diverged, match="loss|linalg"):
        step(images * float("nan"), labels)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("torch.optim.SGD", {"lr": 0.1}),
        ("torch.optim.SGD", {"lr": 0.01, "momentum": 0.9}),
        ("torch.optim.AdamW", {"lr": 2e-3}),
        ("wasi.training.swan.Swan", {"lr": 2e-3}),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_with_every_optimizer(target, options, method):
    model = applied("timm_vit", method, epsilon=0.9)
    step = TrainStep(model, optimizer(model, target, **options), None, clip_norm=2.0)
    losses = [step(*batch()).loss for _ in range(25)]
    assert losses[-1] < 0.95 * losses[0]
    for layer in step.subspace.coordinate_layers + step.subspace.tangent:
        assert torch.allclose(layer.L.mT @ layer.L, torch.eye(layer.weight_rank), atol=1e-3)


def test_a_whitened_step_has_the_length_that_its_rate_says():
    """The step of `C U^T` has entries with a root mean square of 0.2 lr, as a dense weight's has."""
    layer = next(m for m in applied("timm_vit", "wasi", DOUBLE).modules() if hasattr(m, "weight_factors"))
    assert layer.use_coordinates()
    coordinates, dense = layer.C, torch.nn.Parameter(torch.zeros(30, 20, dtype=DOUBLE))
    groups = [{"params": [coordinates], "in_features": layer.in_features}, {"params": [dense]}]
    swan = Swan([{**group, "whiten": True} for group in groups], lr=0.1, weight_decay=0.0)
    for parameter in (coordinates, dense):
        parameter.grad = torch.randn(parameter.shape, dtype=DOUBLE)
    swan.step()
    assert layer.has_pending_step and coordinates.grad is None
    entries = layer.out_features * layer.in_features
    assert coordinates.detach().norm() == pytest.approx(0.2 * 0.1 * entries**0.5)
    assert dense.detach().square().mean().sqrt() == pytest.approx(0.2 * 0.1)
    assert not swan.state


def test_clipping_is_that_of_the_weights_own_gradient():
    """At full rank of the factors the norm is the one that ordinary training clips by."""
    from wasi.methods.selection import ActivationRanks

    dense = applied("timm_vit", "vanilla", DOUBLE)
    free = ActivationRanks("fixed", 1.0, [8, 17, 16])
    model = applied("timm_vit", "asi", DOUBLE, activations=ActivationRanks("fixed", 1.0, [8, 17, 1000]))
    _, (a,) = train(dense, sgd(dense), steps=1, clip_norm=1e-3)
    _, (b,) = train(model, sgd(model), steps=1, clip_norm=1e-3)
    assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-9)
    model = applied("timm_vit", "wasi", DOUBLE, epsilon=0.99, activations=free)
    step = TrainStep(model, sgd(model, lr=1.0, weight_decay=0.0), None, clip_norm=1e-6)
    before = {layer: (layer.L @ layer.R).detach() for layer in step.subspace.coordinate_layers}
    factors = {id(p) for layer in before for p in layer.weight_factors()}
    rest = {p: p.detach().clone() for p in model.parameters() if id(p) not in factors}
    step(*batch(dtype=DOUBLE))
    moved = sum((layer.L @ layer.R - w).square().sum() for layer, w in before.items())
    moved += sum((p - old).square().sum() for p, old in rest.items())
    assert 0.5e-6 < moved.sqrt() <= 1.0001e-6  # the part of the clipped gradient outside the tangent space is lost


@pytest.mark.parametrize("name", MODELS)
def test_batches_of_any_size_and_evaluation_in_between(name):
    model = applied(name, "wasi")
    step = TrainStep(model, sgd(model), None, clip_norm=2.0)
    for size in (8, 5, 1, 12):
        assert torch.isfinite(torch.tensor(step(*batch(size)).loss))
        outputs(model)


def test_evaluation_in_between_changes_nothing():
    model = applied("timm_vit", "wasi")
    other = copy.deepcopy(model)
    a, b = TrainStep(model, sgd(model), None), TrainStep(other, sgd(other), None)
    for seed in range(3):
        a(*batch(seed=seed)), b(*batch(seed=seed))
        outputs(other)
    assert torch.equal(outputs(model), outputs(other))


def test_saving_and_loading_continues_bit_for_bit():
    model = applied("timm_vit", "wasi")
    step, _ = train(model, sgd(model))
    restored = applied("timm_vit", "wasi")
    restored.load_state_dict(copy.deepcopy(model.state_dict()))
    train(model, sgd(model)), train(restored, sgd(restored))
    assert torch.equal(outputs(model), outputs(restored))


def test_tied_weights_keep_one_pair_and_step_once(caplog):
    from timm.models.vision_transformer import VisionTransformer

    from tests.small import method

    caplog.set_level("INFO")
    torch.manual_seed(0)
    model = VisionTransformer(16, 4, embed_dim=32, depth=2, num_heads=2, num_classes=5)
    model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight
    model.blocks[1].mlp.fc2 = model.blocks[0].mlp.fc2
    model = method("wasi", "mlp").apply(model, [batch()])
    first, second = model.blocks[0].mlp, model.blocks[1].mlp
    assert first.fc1.L is second.fc1.L and first.fc1.R is second.fc1.R and first.fc1 is not second.fc1
    assert first.fc2 is second.fc2
    step = TrainStep(model, sgd(model, lr=0.01), None, clip_norm=2.0)
    assert [second.fc1] == step.subspace.tangent and [first.fc2] == step.subspace.coordinate_layers
    assert any("SGD steps along the tangent space in 1 of 2 layers with factored" in line for line in caplog.messages)
    losses = [step(*batch()).loss for _ in range(15)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("optimizer", "told"),
    [("sgd", "SGD steps along the tangent space in "), ("swan", "Swan whitens both factors as any matrices in ")],
)
def test_wsi_tells_that_no_layer_steps_on_its_weight(optimizer, told, caplog, compose_config):
    caplog.set_level("INFO")
    model = applied("timm_vit", "wsi")
    build_optimizer(model, compose_config(f"optimizer={optimizer}").optimizer)
    count = len(trainable_factors(model))
    assert any(line.startswith(f"{told}{count} of {count} layers") for line in caplog.messages)


def test_a_layer_that_takes_no_part_in_a_step_stays():
    model = applied("timm_vit", "wasi")
    step = TrainStep(model, sgd(model, weight_decay=0.0), None, clip_norm=2.0)
    idle = model.blocks[0].mlp.fc1
    before = (idle.L @ idle.R).detach().clone()
    model.blocks[0].mlp.forward = lambda x: x
    step(*batch())
    assert torch.allclose(idle.L @ idle.R, before, atol=1e-6)


def test_gradients_that_are_not_finite_change_no_weight_without_clipping():
    model = applied("timm_vit", "wasi")
    before = copy.deepcopy(dict(model.named_parameters()))
    model.head.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(Diverged, match="gradient norm"):
        TrainStep(model, sgd(model), None, clip_norm=None)(*batch())
    assert all(torch.equal(v, before[k]) for k, v in model.named_parameters())


def test_the_head_has_a_rate_of_its_own():
    model = applied("timm_vit", "wasi")
    found = optimizer(model, "torch.optim.AdamW", lr=1e-3, head_lr_ratio=20.0)
    rates = {id(p): group["lr"] for group in found.param_groups for p in group["params"]}
    head = {id(p) for p in model.head.parameters()}
    assert {rates[p] for p in head} == {2e-2} and {rate for p, rate in rates.items() if p not in head} == {1e-3}
    assert len(rates) == sum(len(group["params"]) for group in found.param_groups)


def test_momentum_whitens_the_mean_of_gradients():
    weight = torch.nn.Parameter(torch.zeros(6, 4, dtype=DOUBLE))
    swan = Swan([{"params": [weight], "whiten": True}], lr=1.0, momentum=0.5, weight_decay=0.0)
    first, second = torch.randn(6, 4, dtype=DOUBLE), torch.randn(6, 4, dtype=DOUBLE)
    weight.grad = first
    swan.step()
    before = weight.detach().clone()
    swan.load_state_dict(copy.deepcopy(swan.state_dict()))
    weight.grad = second
    swan.step()
    expected = torch.linalg.svd(first / 4 + second / 2, full_matrices=False)
    step = (before - weight.detach()) / (0.2 * 6**0.5)
    assert torch.allclose(step, expected[0] @ expected[2], atol=1e-6)


@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_momentum_that_gradients_add_up_in_is_the_mean_of_whole_gradients(micro_batch_size):
    def trained(zero_grad):
        model = applied("timm_vit", "wasi", DOUBLE)
        swan = optimizer(model, "wasi.training.swan.Swan", lr=2e-3, momentum=0.8)
        swan.zero_grad = lambda set_to_none: zero_grad(swan)
        step = TrainStep(model, swan, None, micro_batch_size=micro_batch_size)
        for _ in range(3):
            step(*batch(dtype=DOUBLE))
        return model.state_dict()

    kept = trained(lambda swan: Swan.zero_grad(swan))
    apart = trained(lambda swan: torch.optim.Optimizer.zero_grad(swan))
    assert all(torch.allclose(kept[k], apart[k], rtol=1e-9, atol=1e-9) for k in kept)


def test_a_gradient_is_no_memory_beside_the_momentum():
    model = applied("timm_vit", "wasi")
    step = TrainStep(model, optimizer(model, "wasi.training.swan.Swan", lr=2e-3, momentum=0.8), None)
    step(*batch())
    layers = step.subspace.coordinate_layers
    assert layers and all(m.C.grad is step.optimizer.state[m.C]["momentum_buffer"] for m in layers)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["vanilla", "wasi"])
def test_a_whitened_gradient_that_is_not_finite_changes_no_weight(method, value):
    model = applied("timm_vit", method)
    step = TrainStep(model, optimizer(model, "wasi.training.swan.Swan", lr=2e-3), None)
    last = step.subspace.coordinate_layers[-1].C if method == "wasi" else model.blocks[-1].mlp.fc2.weight
    last.register_hook(lambda gradient: torch.full_like(gradient, value))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Diverged, match="gradient norm"):
        step(*batch())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("method", ["vanilla", "wasi"])
def test_a_gradient_that_is_not_finite_is_told_in_the_step_whose_backward_pass_took_it(method, on_cpu, monkeypatch):
    monkeypatch.setattr(batched, "is_on_cpu", lambda a: on_cpu)
    model = applied("timm_vit", method)
    swan = optimizer(model, "wasi.training.swan.Swan", lr=2e-3)
    step = TrainStep(model, swan, None, step_in_backward=True)
    first = step.subspace.coordinate_layers[0].C if method == "wasi" else model.blocks[0].attn.qkv.weight
    assert first in step.in_backward
    first.register_hook(lambda gradient: torch.full_like(gradient, float("nan")))
    with pytest.raises(Diverged):
        step(*batch())


def test_clipping_leaves_whitened_gradients_alone():
    model = applied("timm_vit", "wasi")
    step = TrainStep(model, optimizer(model, "wasi.training.swan.Swan", lr=2e-3), None)
    step._accumulate(*batch())
    before = [layer.C.grad.clone() for layer in step.subspace.coordinate_layers]
    norm = step.subspace.prepare(max_norm=1e-9)
    clipped = [p.grad for p in step.subspace._clipped if p.grad is not None]
    assert torch.nn.utils.get_total_norm(clipped) < 1e-8 < norm
    after = [layer.C.grad for layer in step.subspace.coordinate_layers]
    assert before and all(map(torch.equal, before, after))


@pytest.mark.parametrize("micro", [None, 2])
def test_smoothed_and_mixed_labels_are_the_shares_that_the_loss_is_of(micro):
    model = applied("timm_vit", "vanilla", DOUBLE)
    images, labels = batch(dtype=DOUBLE)
    shares = torch.nn.functional.one_hot(labels, outputs(model).shape[1]).to(DOUBLE)
    mixed = 0.7 * shares + 0.3 * shares.roll(1, 0)
    smooth = 0.9 * mixed + 0.1 / shares.shape[1]
    expected = -(smooth * model(images).log_softmax(1)).sum(1).mean().item()
    step = TrainStep(model, sgd(model), None, micro_batch_size=micro, label_smoothing=0.1)
    correct = int((model(images).argmax(1) == labels).sum())
    result = step(images, mixed)
    assert result.loss == pytest.approx(expected) and (result.correct, result.count) == (correct, len(labels))


def test_momentum_goes_with_a_basis_that_moves(monkeypatch):
    """`S U^T` before the basis moves is `S' U'^T` after, but for what lies outside the span of `U'`."""
    model = applied("timm_vit", "wasi", DOUBLE)
    step = TrainStep(model, optimizer(model, "wasi.training.swan.Swan", lr=2e-3, momentum=0.8), None)
    step(*batch(dtype=DOUBLE))
    layer = step.subspace.coordinate_layers[0]
    momentum = step.optimizer.state[layer.C]["momentum_buffer"].clone()
    basis = layer.state.feature_basis.detach().clone()
    turned = torch.linalg.qr(torch.randn(basis.shape[1], basis.shape[1], dtype=DOUBLE))[0]
    assert layer.state.feature_basis.requires_grad  # its turn
    monkeypatch.setattr(subspace_iteration, "advance", lambda _: layer.state.feature_basis.copy_(basis @ turned))
    with torch.no_grad():
        step.subspace.finish()
    after = step.optimizer.state[layer.C]["momentum_buffer"] @ layer.state.feature_basis.mT
    torch.testing.assert_close(after, momentum @ basis.mT)


def test_hooks_of_an_optimizer_are_called_once_a_step_whatever_else_there_was():
    eager(torch.optim.AdamW)([torch.nn.Parameter(torch.zeros(2, 2))], lr=0.1)  # wraps the method that Swan is made of
    swan, calls = Swan([{"params": [torch.nn.Parameter(torch.zeros(3, 2))], "whiten": True}], lr=0.1), []
    swan.register_step_pre_hook(lambda *_: calls.append("before"))
    swan.register_step_post_hook(lambda *_: calls.append("after"))
    swan.step()
    assert calls == ["before", "after"]


def test_what_a_method_keeps_in_the_state_of_a_whitened_matrix_can_be_loaded():
    weight = torch.nn.Parameter(torch.zeros(3, 2))
    swan = Swan([{"params": [weight], "whiten": True}], lr=0.1)
    swan.state[weight]["seen"] = torch.ones(3)
    swan.load_state_dict(copy.deepcopy(swan.state_dict()))
    assert torch.equal(swan.state[weight]["seen"], torch.ones(3))


def test_an_optimizer_after_another_on_one_model_steps_on_what_it_can():
    model = applied("timm_vit", "wasi")
    optimizer(model, "torch.optim.SGD", lr=0.1)  # without state: on coordinates
    step = TrainStep(model, optimizer(model, "torch.optim.AdamW", lr=2e-3), None)
    losses = [step(*batch()).loss for _ in range(10)]
    assert step.subspace.coordinate_layers == [] and losses[-1] < losses[0]


def test_clearing_gradients_in_place_leaves_the_momentum():
    model = applied("timm_vit", "wasi")
    swan = optimizer(model, "wasi.training.swan.Swan", lr=1e-3, momentum=0.9)
    TrainStep(model, swan, None)(*batch())
    before = [state["momentum_buffer"].clone() for state in swan.state.values() if "momentum_buffer" in state]
    for set_to_none in (True, False):
        swan.zero_grad(set_to_none=set_to_none)
    after = [state["momentum_buffer"] for state in swan.state.values() if "momentum_buffer" in state]
    assert before and all(a.abs().sum() > 0 and torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_swan_adds_its_step_to_a_matrix_of_one_entry_whose_stride_is_that_of_coordinates():
    weight = torch.nn.Parameter(torch.tensor(5.0).expand(1, 1))
    weight.grad = torch.ones(1, 1)
    Swan([{"params": [weight], "whiten": True}], lr=1.0, weight_decay=0.0).step()
    assert weight.item() == pytest.approx(5.0 - 0.2)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_swan_that_maximizes_steps_on_matrices_as_one_that_minimizes_the_negative_does(momentum):
    found = []
    for sign in (1.0, -1.0):
        model = applied("timm_vit", "wasi")
        swan = optimizer(model, "wasi.training.swan.Swan", lr=1e-3, momentum=momentum, maximize=sign > 0)
        subspace = subspace_iteration.SubspaceIteration(model, swan)
        assert subspace.coordinate_layers
        for _ in range(2):
            (sign * torch.nn.functional.cross_entropy(model(batch()[0]), batch()[1])).backward()
            subspace.prepare(max_norm=None)
            swan.step()
            subspace.finish()
            swan.zero_grad()
        found.append(model.state_dict())
    assert all(torch.allclose(tensor, found[1][name], atol=1e-5) for name, tensor in found[0].items())
