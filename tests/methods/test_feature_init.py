"""`method.init=features`, against dense statements about the features' gradients on the calibration data."""

import pytest
import torch
from torch import nn

from tests.oracles import decaying, weighted_truncation
from tests.small import CLASSES, MODELS, START_KINDS, batch, build, tied_vit, weight_of
from tests.small import method as make
from wasi.errors import UserError
from wasi.layers.base import LowRankLayer
from wasi.methods import calibration as calibration_module
from wasi.methods.feature_init import FeatureMoments, feature_moments
from wasi.methods.scope import scope_linears
from wasi.models.structure import head_module

DOUBLE = torch.float64


def seen(model, scope, batches):
    """Name -> (the linear, [(rows of its input, rows of `g` at its output) of each call]), in a model as it is."""
    linears, calls, features, pairs = scope_linears(model, scope), [], [], {}

    def called(linear, args, output):
        calls.append((linear, args[0].detach(), output))

    hooks = [linear.register_forward_hook(called) for linear in set(linears.values())]
    hooks.append(head_module(model).register_forward_pre_hook(lambda _, args: features.append(args[0])))
    generator = torch.Generator().manual_seed(0)
    for images, _ in batches:
        calls.clear(), features.clear()
        model.eval()(images)
        probes = [torch.randn(f.shape, generator=generator, dtype=f.dtype) for f in features]
        pulled = sum((f * probe).sum() for f, probe in zip(features, probes, strict=True))
        grads = torch.autograd.grad(pulled, [output for _, _, output in calls])
        for (linear, x, _), g in zip(calls, grads, strict=True):
            pairs.setdefault(linear, []).append((x.flatten(0, -2), g.flatten(0, -2)))
    for hook in hooks:
        hook.remove()
    return {name: (linear, pairs[linear]) for name, linear in linears.items()}


def weighed_mean(pairs):
    rows, grads = (torch.cat(column) for column in zip(*pairs, strict=True))
    sizes = grads.square().sum(1)
    return sizes @ rows / sizes.sum()


def expected(weight, groups, rank):
    """The best `W'` for groups, one for each bias, of (inputs, gradients); a group under the key None has none."""
    moment = sensitivity = size = squared = power = 0.0
    for key, pairs in groups.items():
        mean = 0.0 if key is None else weighed_mean(pairs)
        for x, g in pairs:
            tokens = torch.diag(g.square().sum(1))
            moment = moment + (x - mean).mT @ tokens @ (x - mean)
            sensitivity = sensitivity + g.mT @ g
            power, size = power + (tokens @ x.square()).sum(), size + tokens.sum()
            squared = squared + tokens.square().sum()
    o, i = weight.shape
    moment = moment / size + squared / size**2 * power / size / i * torch.eye(i, dtype=DOUBLE)  # one more token
    sensitivity = sensitivity / size + 0.3 / o * torch.eye(o, dtype=DOUBLE)  # a share of its mean eigenvalue
    return weighted_truncation(weight, sensitivity, moment, rank)


def shrinking(name, seed):
    """A model whose linears have decaying singular values, and norms that leave first-order effects first."""
    model = build(name, seed, DOUBLE)
    for i, linear in enumerate(scope_linears(model, "all").values()):
        weight = decaying(*linear.weight.shape, seed=100 * seed + i, decay=0.85)
        linear.weight.data = weight * (0.5 * linear.in_features**0.5 / weight.norm())
    return model


@torch.no_grad()
def features_of(model, images):
    found = []
    hook = head_module(model).register_forward_pre_hook(lambda _, args: found.append(args[0]))
    model.eval()(images)
    hook.remove()
    return found[0]


@pytest.mark.parametrize("method, update", START_KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_best_for_the_dense_moments(name, method, update):
    batches = [batch(8, 1, DOUBLE), batch(4, 2, DOUBLE)]
    dense = seen(build(name, dtype=DOUBLE), "all", batches)
    start = make(method, "all", 0.6, update=update, init="features", calibration_batches=2)
    model = start.apply(build(name, dtype=DOUBLE), [*batches, batch(8, 3, DOUBLE)])
    for n, (linear, pairs) in dense.items():
        layer = model.get_submodule(n)
        weight = linear.weight.detach()
        best = expected(weight, {"bias": pairs}, layer.weight_rank)
        assert torch.allclose(weight_of(layer), best, atol=1e-6 * weight.norm())
        lost = (weight - weight_of(layer)) @ weighed_mean(pairs)
        assert torch.allclose(layer.bias, linear.bias + lost, atol=1e-9)
        if update == "subspace":
            assert torch.allclose(layer.L.mT @ layer.L, torch.eye(layer.weight_rank, dtype=DOUBLE))


@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
@pytest.mark.parametrize("biased", [True, False])
def test_moments_of_calls_of_any_shape(biased, shape):
    weight, bias = decaying(*shape), torch.zeros(shape[0], dtype=DOUBLE) if biased else None
    x, g = decaying(2, 4, 5, shape[1], seed=1, decay=0.9) + 1, decaying(2, 4, 5, shape[0], seed=2, decay=0.9)
    g[1, 2] = 0  # tokens that do not count, whatever their input
    x[1, 2] = 1e6
    moments = FeatureMoments(weight)
    for rows, grad in zip(x, g, strict=True):
        moments.observe(rows, bias, grad)
    left, right = moments.factors(3)
    pairs = [(x.flatten(0, -2), g.flatten(0, -2))]
    best = expected(weight, {"bias" if biased else None: pairs}, 3)
    assert torch.allclose(left @ right, best, atol=1e-7 * weight.norm())
    if biased:
        assert torch.allclose(moments.absorbed(bias), (weight - best) @ weighed_mean(pairs), atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", MODELS)
def test_features_move_less_than_from_output_init(name, seed):
    calibration = [batch(32, seed, DOUBLE)]
    images = calibration[0][0]
    dense = features_of(shrinking(name, seed), images)
    damage = {}
    for init in ("svd", "output", "features"):
        model = make("wsi", "all", 0.6, init=init).apply(shrinking(name, seed), calibration)
        damage[init] = (features_of(model, images) - dense).norm()
    assert damage["features"] < 0.9 * damage["output"] and damage["features"] < 0.6 * damage["svd"]


def test_tied_weights_share_factors_and_each_bias_its_own_mean():
    calibration = [batch(dtype=DOUBLE)]
    dense = seen(tied_vit(), "mlp", calibration)
    model = make("wasi", "mlp", 0.6, init="features").apply(tied_vit(), calibration)
    first, second = (block.mlp for block in model.blocks)
    assert first.fc1.L is second.fc1.L and first.fc1.bias is not second.fc1.bias and first.fc2 is second.fc2
    for names in (["blocks.0.mlp.fc1", "blocks.1.mlp.fc1"], ["blocks.0.mlp.fc2"]):
        groups = {n: dense[n][1] for n in names}
        layer, weight = model.get_submodule(names[0]), dense[names[0]][0].weight.detach()
        assert torch.allclose(weight_of(layer), expected(weight, groups, layer.weight_rank), atol=1e-6)
        for n, pairs in groups.items():
            lost = (weight - weight_of(layer)) @ weighed_mean(pairs)
            assert torch.allclose(model.get_submodule(n).bias, dense[n][0].bias + lost, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_zero_or_non_finite_inputs_name_the_layer(value):
    model = build("timm_vit")
    nn.init.constant_(model.blocks[1].norm2.weight, value)
    nn.init.zeros_(model.blocks[1].norm2.bias)
    with pytest.raises(UserError, match=r"blocks\.1\.mlp\.fc1\).*its inputs are .*not finite") as error:
        make("wsi", "all", init="features").apply(model, [batch()])
    assert "\n" not in str(error.value)


class Vertical(nn.Module):
    """The identity on values; its slope is not finite."""

    def forward(self, x):
        return x + (0 * x).sqrt()


@pytest.mark.parametrize("method", ["wasi", "wsi"])
def test_a_non_finite_gradient_names_the_layer(method):
    model = build("timm_vit")
    model.blocks[0].ls2 = Vertical()
    with pytest.raises(UserError, match=r"blocks\.0\.mlp\.fc2\).*gradient at its output is not finite") as error:
        make(method, "all", init="features").apply(model, [batch()])
    assert "\n" not in str(error.value)


class Times(nn.Module):
    def forward(self, x):
        return 0 * x


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


def skip(mlp):
    mlp.forward = lambda x: x


@pytest.mark.parametrize("cut", [skip, lambda mlp: mlp.append(Times()), lambda mlp: mlp.append(Detached())])
def test_what_does_not_reach_the_features_starts_from_its_weight(cut):
    """Never called, called to no effect, or without a gradient."""
    model = build("torchvision_vit", dtype=DOUBLE)
    mlp = model.encoder.layers[1].mlp
    weight, bias = mlp[0].weight.detach().clone(), mlp[0].bias
    cut(mlp)
    start = make("wsi", "mlp", 0.6, init="features").apply(model, [batch(dtype=DOUBLE)])
    layer, other = (start.encoder.layers[i].mlp[0] for i in (1, 0))
    u, s, vh = torch.linalg.svd(weight)
    k = layer.weight_rank
    assert torch.allclose(weight_of(layer), u[:, :k] * s[:k] @ vh[:k]) and layer.bias is bias
    assert torch.linalg.svdvals(weight_of(other))[0] > 0 and other.bias is not None


@pytest.mark.parametrize("cut", ["never called", "detached"])
def test_a_classifier_that_sees_nothing_of_the_blocks_is_refused(cut):
    model = build("timm_vit")
    if cut == "detached":
        features = model.forward_features
        model.forward_features = lambda x, **options: features(x).detach()
    else:
        model.forward = model.forward_features
    with pytest.raises(UserError, match=r"^method\.init=features: .*does not call its classifier") as error:
        make("wsi", init="features").apply(model, [batch()])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["wasi", "wsi"])
@pytest.mark.parametrize("grad_mode", [torch.no_grad, torch.enable_grad])
def test_the_model_is_left_as_it_was(grad_mode, method):
    model = build("timm_vit").train()
    model.blocks[1].mlp.eval()  # a part that its owner keeps in evaluation mode
    for p in model.blocks[0].parameters():
        p.requires_grad_(False)
    modes = {m: m.training for m in model.modules()}
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    values = {n: t.clone() for n, t in model.state_dict().items()}
    state = torch.get_rng_state()
    start = make(method, "attention", init="features")
    with grad_mode():
        feature_moments(model, scope_linears(model, "mlp"), [batch()])
        assert torch.is_grad_enabled() == (grad_mode is torch.enable_grad)
        assert all(torch.equal(t, values[n]) for n, t in model.state_dict().items())
        start.apply(model, [batch()])
    kept = {n: p for n, p in model.named_parameters() if n in flags}
    assert all(p.requires_grad == flags[n] and p.grad is None for n, p in kept.items())
    assert all(m.training == modes[m] for m in model.modules() if m in modes)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def product_of(model, calibration, **options):
    applied = make("wsi", "all", 0.6, init="features", **options).apply(model, calibration)
    return [weight_of(layer) for layer in applied.modules() if isinstance(layer, LowRankLayer)]


def test_frozen_layers_are_reached_as_well():
    model, calibration = build("timm_vit", dtype=DOUBLE), [batch(dtype=DOUBLE)]
    free = product_of(build("timm_vit", dtype=DOUBLE), calibration)
    for a, b in zip(product_of(model.requires_grad_(False), calibration), free, strict=True):
        assert torch.allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_two_applications_agree_bit_by_bit(name):
    first, second = (
        make("wasi", init="features").apply(build(name), [batch(20)]).state_dict() for _ in range(2)
    )
    assert first.keys() == second.keys() and all(torch.equal(t, second[n]) for n, t in first.items())


@pytest.mark.parametrize("images", [4, 20])
def test_how_many_images_go_at_a_time_does_not_matter(images, monkeypatch):
    calibration = [batch(20, 1, DOUBLE)]
    by_sixteen = product_of(build("timm_vit", dtype=DOUBLE), calibration)
    monkeypatch.setattr(calibration_module, "CHUNK", images)
    for a, b in zip(product_of(build("timm_vit", dtype=DOUBLE), calibration), by_sixteen, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_an_activation_in_place_changes_nothing():
    def rectified(inplace):
        model = build("torchvision_vit", dtype=DOUBLE)
        for layer in model.encoder.layers:
            layer.mlp[1] = nn.ReLU(inplace)
        return product_of(model, [batch(dtype=DOUBLE)])

    for a, b in zip(rectified(True), rectified(False), strict=True):
        assert torch.allclose(a, b, atol=1e-9)


class Twice(nn.Module):
    """Two outlooks on the blocks for one head, or for one head each."""

    def __init__(self, heads: int):
        super().__init__()
        self.body = build("timm_vit", dtype=DOUBLE)
        self.body.head = nn.Identity()
        self.heads = nn.ModuleList(nn.Linear(32, CLASSES, dtype=DOUBLE) for _ in range(heads))

    def get_classifier(self):
        return tuple(self.heads) if len(self.heads) > 1 else self.heads[0]

    def forward(self, x):
        tokens = self.body.forward_features(x)
        return self.heads[0](tokens[:, 0]) + self.heads[-1](tokens[:, 1])


@pytest.mark.parametrize("heads", [1, 2])
def test_all_that_reaches_a_head_counts(heads):
    model, calibration = Twice(heads), [batch(dtype=DOUBLE)]
    name = "body.blocks.1.mlp.fc2"  # behind it, each token stands for itself
    found = feature_moments(model, scope_linears(model, "mlp"), calibration)
    linear = model.get_submodule(name)
    assert len(found) == 4
    calls = []
    hook = linear.register_forward_hook(lambda _, args, output: calls.append((args[0].detach(), output)))
    tokens = model.eval().body.forward_features(calibration[0][0])[:, :2]
    hook.remove()
    ((x, output),) = calls
    generator = torch.Generator().manual_seed(0)
    probes = [torch.randn(8, 32, generator=generator, dtype=DOUBLE) for _ in range(2)]
    (g,) = torch.autograd.grad(tokens, output, torch.stack(probes, 1))
    assert not g[:, 2:].any() and g[:, :2].any(-1).all()
    left, right = found[id(linear.weight)].factors(5)
    best = expected(linear.weight.detach(), {"bias": [(x.flatten(0, 1), g.flatten(0, 1))]}, 5)
    assert torch.allclose(left @ right, best, atol=1e-7)
