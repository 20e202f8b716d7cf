"""A whole step, in every way the options allow it to be taken."""

import copy

import pytest
import torch

from tests.small import METHODS, MODELS, applied, batch
from wasi.errors import Diverged
from wasi.linalg.thin_step import lift
from wasi.training.checkpointing import checkpoint_blocks
from wasi.training.step import TrainStep
from wasi.training.subspace import MAX_DRIFT, SubspaceIteration, trainable_factors

DOUBLE = torch.float64


def groups(model):
    left = [layer.L for layer in trainable_factors(model)]
    ids = {id(p) for p in left}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
    return [{"params": rest}] + ([{"params": left, "weight_decay": 0.0}] if left else [])


def sgd(model, **options):
    return torch.optim.SGD(groups(model), **{"lr": 0.05, "weight_decay": 1e-2, **options})


def train(model, optimizer, steps=3, **options):
    step = TrainStep(model, optimizer, None, **{"clip_norm": 2.0, **options})
    results = [step(*batch(seed=s, dtype=next(model.parameters()).dtype)) for s in range(steps)]
    return step, results


def outputs(model):
    with torch.no_grad():
        return model.eval()(batch(seed=99, dtype=next(model.parameters()).dtype)[0])


@pytest.mark.parametrize("name", MODELS)
def test_thin_sgd_equals_sgd_on_the_factors(name, monkeypatch):
    # Retracts in every step, as the other route does, and does nothing of its own to make that needless.
    monkeypatch.setattr("wasi.training.subspace.MAX_DRIFT", 0.0)
    monkeypatch.setattr("wasi.linalg.thin_step._SMALL_STRETCH", -1.0)
    model = applied(name, "wasi", DOUBLE)
    other = copy.deepcopy(model)
    thin, a = train(model, sgd(model))
    # The least momentum there is switches the thin route off and changes no number.
    full, b = train(other, sgd(other, momentum=1e-300))
    assert thin.subspace.thin and not thin.subspace.factored and not full.subspace.thin
    assert torch.allclose(outputs(model), outputs(other), atol=1e-9)
    for x, y in zip(a, b, strict=True):
        assert x.loss == pytest.approx(y.loss, rel=1e-9) and x.grad_norm == pytest.approx(y.grad_norm, rel=1e-9)


def test_factors_drift_within_bounds_and_are_brought_back():
    """Where `L` stays nearly orthonormal, retraction once in a while makes no difference that matters."""
    model = applied("timm_vit", "wasi", DOUBLE)
    layers, most = trainable_factors(model), 0.0
    step = TrainStep(model, sgd(model, lr=0.5), None, clip_norm=2.0)
    before = [layer.drift.item() for layer in layers]
    retracted = 0
    for seed in range(12):
        step(*batch(seed=seed, dtype=DOUBLE))
        for i, layer in enumerate(layers):
            off = (layer.L.mT @ layer.L - torch.eye(layer.weight_rank, dtype=DOUBLE)).norm().item()
            assert off <= 1.01 * layer.drift.item() + 1e-12
            most = max(most, off)
            retracted += layer.drift.item() < before[i]
            before[i] = layer.drift.item()
    assert 0 < most <= MAX_DRIFT == 1e-4 and retracted


@pytest.mark.parametrize("retracts", [False, True])
def test_the_lift_is_kept_until_the_basis_moves_or_the_factors_turn(retracts, monkeypatch):
    monkeypatch.setattr("wasi.training.subspace.MAX_DRIFT", 0.0 if retracts else 1e9)
    model = applied("timm_vit", "wasi", DOUBLE)
    layers, made = trainable_factors(model), []
    for state in (layer.states[0] for layer in layers):
        state.update_gap = 3
        state.age.zero_()
    step = TrainStep(model, sgd(model, lr=0.5), None, clip_norm=2.0)
    for seed in range(6):
        fresh = [lift(layer.states[0].feature_basis, layer.R.detach()).b for layer in layers]
        step(*batch(seed=seed, dtype=DOUBLE))
        made.append([torch.allclose(layer.lift_b, b) for layer, b in zip(layers, fresh, strict=True)])
    moved = [True, True, False, False, True, False]  # bases move at the end of the first step and the fourth
    assert made == [[retracts or due] * len(layers) for due in moved]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_gradient_checkpointing_changes_nothing(name, method):
    model = applied(name, method, DOUBLE)
    other = copy.deepcopy(model)
    checkpoint_blocks(other)
    train(model, sgd(model)), train(other, sgd(other))
    assert torch.allclose(outputs(model), outputs(other), atol=1e-9)


@pytest.mark.parametrize("method", ["vanilla", "wsi", "svd_llm", "lora"])
def test_accumulation_gives_the_whole_batchs_step(method):
    model = applied("timm_vit", method, DOUBLE)
    other = copy.deepcopy(model)
    _, a = train(model, sgd(model))
    _, b = train(other, sgd(other), micro_batch_size=2)
    assert torch.allclose(outputs(model), outputs(other), atol=1e-9)
    assert [r.correct for r in a] == [r.correct for r in b]


def test_accumulation_with_full_batch_rank_gives_the_whole_batchs_step():
    """A batch mode kept whole is the same however the batch is cut; bases then move as for the whole batch."""
    from wasi.methods.selection import ActivationRanks

    whole = ActivationRanks("fixed", 1.0, [8, 6, 8])
    model = applied("timm_vit", "wasi", DOUBLE, activations=whole)
    other = copy.deepcopy(model)
    train(model, sgd(model)), train(other, sgd(other), micro_batch_size=2)
    assert torch.allclose(outputs(model), outputs(other), atol=1e-9)


@pytest.mark.parametrize("method", ["vanilla", "wasi"])
def test_a_diverged_step_changes_no_weight(method):
    model = applied("timm_vit", method)
    before = copy.deepcopy(model.state_dict())
    images, labels = batch()
    step = TrainStep(model, sgd(model), None, clip_norm=2.0)
    with pytest.raises(Diverged, match="loss|linalg"):
        step(images * float("nan"), labels)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("method", ["wasi", "wsi"])
def test_every_optimizer_trains_and_keeps_l_orthonormal(optimizer, method):
    model = applied("timm_vit", method, epsilon=0.9)
    make = {
        "sgd": lambda: sgd(model, lr=0.1),
        "momentum": lambda: sgd(model, momentum=0.9, lr=0.01),
        "adamw": lambda: torch.optim.AdamW(groups(model), lr=2e-3),
    }
    step = TrainStep(model, make[optimizer](), None, clip_norm=2.0)
    losses = [step(*batch()).loss for _ in range(25)]
    assert losses[-1] < 0.9 * losses[0]
    for layer in trainable_factors(model):
        # Thin steps bring `L` back once in a while, the other route each time.
        tolerance = 1e-4 if (method, optimizer) == ("wasi", "sgd") else 1e-5
        assert torch.allclose(layer.L.mT @ layer.L, torch.eye(layer.weight_rank), atol=tolerance)


def test_clipping_uses_one_norm_over_tangent_and_ordinary_gradients():
    model = applied("timm_vit", "wasi", DOUBLE)
    free = copy.deepcopy(model)
    _, (unclipped,) = train(free, sgd(free), steps=1, clip_norm=None)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    step, (result,) = train(model, sgd(model, lr=1.0, weight_decay=0.0), steps=1, clip_norm=1e-3)
    moved = 0.0
    for name, layer in [(n, m) for n, m in model.named_modules() if hasattr(m, "L")]:
        moved += (layer.L @ layer.R - before[f"{name}.L"] @ before[f"{name}.R"]).square().sum()
    factors = {f"{n}.{f}" for n, m in model.named_modules() if hasattr(m, "L") for f in "LR"}
    for name, parameter in model.named_parameters():
        if name not in factors:
            moved += (parameter - before[name]).square().sum()
    assert result.grad_norm > 1e-2
    # The step's length in weight space is the clipping norm, to second order in it; damping takes a little.
    assert moved.sqrt().item() == pytest.approx(1e-3, rel=0.02)


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


def test_tied_weights_keep_one_pair_and_step_once():
    from timm.models.vision_transformer import VisionTransformer

    from tests.small import method

    torch.manual_seed(0)
    model = VisionTransformer(16, 4, embed_dim=32, depth=2, num_heads=2, num_classes=5)
    model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight
    model.blocks[1].mlp.fc2 = model.blocks[0].mlp.fc2
    model = method("wasi", "mlp").apply(model, [batch()])
    first, second = model.blocks[0].mlp, model.blocks[1].mlp
    assert first.fc1.L is second.fc1.L and first.fc1.R is second.fc1.R and first.fc1 is not second.fc1
    assert first.fc2 is second.fc2 and len(first.fc2.states) == 2
    assert len(SubspaceIteration(model).factored) == 2
    other = copy.deepcopy(model)
    mixed, full = train(model, sgd(model))[0], train(other, sgd(other, momentum=1e-30))[0]
    assert not mixed.subspace.thin and len(full.subspace.factored) == 2
    assert torch.allclose(outputs(model), outputs(other), atol=1e-5)
    step = TrainStep(model, sgd(model, lr=0.01), None, clip_norm=2.0)
    losses = [step(*batch()).loss for _ in range(15)]
    assert losses[-1] < losses[0]


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
