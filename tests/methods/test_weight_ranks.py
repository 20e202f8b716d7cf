"""`rank.weight_allocation=sensitivity`: what the ranks add up to, and that they serve the features."""

import logging

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tests.methods.test_feature_init import features_of, shrinking
from tests.small import MODELS, batch, build
from tests.small import method as make
from wasi.errors import UserError
from wasi.layers.base import LowRankLayer
from wasi.linalg.allocation import largest_rank
from wasi.linalg.rank import weight_rank
from wasi.methods.feature_init import FeatureMoments, feature_moments
from wasi.methods.scope import scope_linears

DOUBLE = torch.float64
SENSITIVITY = {"init": "features", "weight_allocation": "sensitivity"}


def ranks_of(model):
    return {n: m.weight_rank for n, m in model.named_modules() if isinstance(m, LowRankLayer)}


def parameters(linears, ranks):
    return sum(ranks[n] * (linear.in_features + linear.out_features) for n, linear in linears.items())


def widest(linears):
    return max(linear.in_features + linear.out_features for linear in linears.values())


@pytest.mark.parametrize("method", ["wasi", "wsi", "svd_llm"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("ratio", [None, 0.3])
def test_as_many_parameters_as_asked_for(ratio, name, method):
    options = {"weight_allocation": "sensitivity", **({} if method == "svd_llm" else {"init": "features"})}
    linears = scope_linears(build(name), "all")
    model = make(method, "all", 0.7, parameter_ratio=ratio, **options).apply(build(name), [batch()])
    ranks = ranks_of(model)
    most = {n: largest_rank(*linear.weight.shape) for n, linear in linears.items()}
    own = {n: min(weight_rank(linear.weight, 0.7), most[n]) for n, linear in linears.items()}
    dense = sum(linear.weight.numel() for linear in linears.values())
    budget = parameters(linears, own) if ratio is None else ratio * dense
    assert budget - widest(linears) < parameters(linears, ranks) <= budget
    assert all(1 <= ranks[n] <= most[n] for n in linears) and ranks != own


@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_errors_add_up_to_the_error_of_the_factors(shape):
    generator = torch.Generator().manual_seed(0)
    shapes = (shape, (50, shape[1]), (50, shape[0]))
    weight, x, g = (torch.randn(*s, generator=generator, dtype=DOUBLE) for s in shapes)
    for rank in (1, 3, 6):
        moments = FeatureMoments(weight)
        moments.observe(x, None, g)
        direction_losses, (left, right) = moments.direction_losses(), moments.factors(rank)
        size = g.square().sum(1)
        inputs = (x * size[:, None]).mT @ x / size.sum()
        one_more = size.square().sum() / size.sum() ** 2 * inputs.trace() / shape[1]
        inputs = inputs + one_more * torch.eye(shape[1], dtype=DOUBLE)
        outputs = g.mT @ g + 0.3 * size.sum() / shape[0] * torch.eye(shape[0], dtype=DOUBLE)
        lost = weight - left @ right
        assert torch.allclose(torch.trace(outputs @ lost @ inputs @ lost.mT), direction_losses[rank:].sum(), rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_damages_predict_how_far_the_features_move(name):
    """Of any layer, in one unit, within an order of magnitude: tokens of an image are taken as uncorrelated."""
    model, calibration = shrinking(name, 0), batch(128, dtype=DOUBLE)
    dense, linears = features_of(model, calibration[0]), scope_linears(model, "all")
    moments = feature_moments(model, linears, [calibration])
    predicted, moved = [], []
    for linear in linears.values():
        weight, seen, rank = linear.weight.data, moments[id(linear.weight)], min(linear.weight.shape) // 8
        predicted.append(seen.direction_losses()[rank:].sum())
        left, right = seen.factors(rank)
        bias, linear.bias.data = linear.bias.data, seen.absorbed(linear.bias)
        linear.weight.data = left @ right
        moved.append((features_of(model, calibration[0]) - dense).square().sum())
        linear.weight.data, linear.bias.data = weight, bias
    ratios = torch.stack(moved) / torch.stack(predicted)
    assert ratios.min() > 0.1 and ratios.max() < 10


@pytest.mark.parametrize("method, update", [("wsi", "svd"), ("wasi", "subspace")])
def test_the_same_ranks_whatever_takes_the_step(method, update):
    model, other = (
        make(m, "all", 0.6, update=u, **SENSITIVITY).apply(build("timm_vit"), [batch()])
        for m, u in ((method, update), ("wsi", "subspace"))
    )
    assert ranks_of(model) == ranks_of(other)


def test_a_shared_weight_is_paid_for_once():
    model = build("timm_vit", dtype=DOUBLE)
    first, second = (block.mlp for block in model.blocks)
    second.fc1.weight = first.fc1.weight
    second.fc2 = first.fc2
    linears = scope_linears(model, "mlp")
    dense = first.fc1.weight.numel() + first.fc2.weight.numel()
    applied = make("wsi", "mlp", parameter_ratio=0.5, **SENSITIVITY).apply(model, [batch(dtype=DOUBLE)])
    ranks = ranks_of(applied)
    assert ranks["blocks.0.mlp.fc1"] == ranks["blocks.1.mlp.fc1"]
    spent = parameters({n: linear for n, linear in linears.items() if "blocks.0" in n}, ranks)
    assert 0.5 * dense - widest(linears) < spent <= 0.5 * dense


def test_weights_that_do_not_reach_the_features_keep_the_common_share():
    model = build("torchvision_vit", dtype=DOUBLE)
    layers = model.encoder.layers
    layers[1].mlp.append(nn.Dropout(1.0))  # the identity in evaluation mode
    layers[1].mlp.forward = lambda x: x
    start = make("wsi", "mlp", parameter_ratio=0.5, **SENSITIVITY).apply(model, [batch(dtype=DOUBLE)])
    idle, other = (start.encoder.layers[i].mlp[0] for i in (1, 0))
    assert idle.weight_rank == int(0.5 * largest_rank(idle.out_features, idle.in_features))
    assert other.weight_rank >= 1


def test_where_no_weight_reaches_the_features_all_keep_the_common_share():
    """Random weights of timm's Swin V2 CR are such: the norm at each block's end starts as zeros."""
    model = build("torchvision_vit", dtype=DOUBLE)
    for layer in model.encoder.layers:
        layer.mlp.forward = lambda x: x
    start = make("wsi", "mlp", parameter_ratio=0.5, **SENSITIVITY).apply(model, [batch(dtype=DOUBLE)])
    idle = [layer.mlp[0] for layer in start.encoder.layers]
    assert [linear.weight_rank for linear in idle] == [
        int(0.5 * largest_rank(linear.out_features, linear.in_features)) for linear in idle
    ]


def test_a_ratio_below_rank_one_is_refused():
    with pytest.raises(UserError, match=r"^rank\.parameter_ratio=0\.01: .*at least 0\.\d+, which") as error:
        make("wsi", "mlp", parameter_ratio=0.01, **SENSITIVITY).apply(build("timm_vit"), [batch()])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "options", "blamed"),
    [
        ("wsi", {"weight_allocation": "sensitivity"}, "rank.weight_allocation=sensitivity: .*init=svd"),
        ("wasi", {"weight_allocation": "sensitivity", "init": "output"}, "rank.weight_allocation=.*init=output"),
        ("wsi", {"weight_allocation": "even"}, "rank.weight_allocation=even: allowed is epsilon or sensitivity"),
        ("wsi", {"parameter_ratio": 0.5}, "rank.parameter_ratio=0.5: allowed is null"),
        ("svd_llm", {"parameter_ratio": 0.5}, "rank.parameter_ratio=0.5: allowed is null"),
    ],
)
def test_what_does_not_go_together_is_refused(method, options, blamed):
    with pytest.raises(UserError, match=blamed):
        make(method, **options)


def test_one_line_tells_parameters_and_ranks(caplog):
    with caplog.at_level(logging.INFO, logger="wasi"):
        model = make("wsi", "mlp", 0.6).apply(build("timm_vit"), [batch()])
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    layers = [m for m in model.modules() if isinstance(m, LowRankLayer)]
    sizes, ranks = sum(m.L.numel() + m.R.numel() for m in layers), [m.weight_rank for m in layers]
    dense = sum(m.in_features * m.out_features for m in layers)
    assert line == (
        f"{len(layers)} weights as factors of rank {min(ranks)} to {max(ranks)}: "
        f"{sizes} parameters, {sizes / dense:.3f} of the dense {dense}"
    )


@pytest.mark.parametrize(("ratio", "whole_steps"), [(0.5, True), (0.02, False)])
def test_ranks_of_wide_weights_are_multiples_of_sixteen_where_the_budget_allows(ratio, whole_steps):
    torch.manual_seed(0)
    model = VisionTransformer(16, 8, embed_dim=192, depth=1, num_heads=2, num_classes=5)
    applied = make("wsi", "mlp", parameter_ratio=ratio, **SENSITIVITY).apply(model, [batch()])
    ranks = ranks_of(applied).values()
    assert all(rank % 16 == 0 for rank in ranks) is whole_steps and all(rank > 0 for rank in ranks)
