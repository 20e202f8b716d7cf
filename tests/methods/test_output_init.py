"""`method.init=output`, against dense statements about what the layers put out on the calibration data.

What holds for `method.init=features` in the same words is here too.
"""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from tests.oracles import decaying
from tests.small import MODELS, START_KINDS, applied, batch, build, tied_vit, weight_of
from tests.small import method as make
from wasi.config.fingerprint import fingerprint
from wasi.config.validate import validate
from wasi.errors import UserError
from wasi.layers.base import LowRankLayer
from wasi.methods.output_init import OutputMoments
from wasi.methods.scope import scope_linears
from wasi.models.structure import linear_sites
from wasi.training.step import TrainStep

DOUBLE = torch.float64


def dense_inputs(model, scope, batches):
    """Name -> (the linear, its input's rows over all calls) in the model as it is."""
    linears, rows = scope_linears(model, scope), {}

    def see(linear, args, output):
        rows.setdefault(linear, []).append(args[0].detach().reshape(-1, linear.in_features))

    hooks = [linear.register_forward_hook(see) for linear in set(linears.values())]
    for images, _ in batches:
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return {name: (linear, torch.cat(rows[linear])) for name, linear in linears.items()}


def best_error(weight, inputs):
    """Eigenvalues, ascending, of the summed output moment of `inputs`, a list of (already centred) rows."""
    return torch.linalg.eigvalsh(weight @ sum(x.mT @ x for x in inputs) @ weight.mT)


@pytest.mark.parametrize("method, update", START_KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_outputs_on_the_calibration_data(name, method, update):
    options = {"dtype": DOUBLE, "scope": "all", "epsilon": 0.6, "update": update}
    batches = [batch(8, 1, DOUBLE), batch(4, 2, DOUBLE)]
    dense = dense_inputs(build(name, dtype=DOUBLE), "all", batches)
    start = make(method, "all", 0.6, update=update, init="output", calibration_batches=2)
    model = start.apply(build(name, dtype=DOUBLE), [*batches, batch(8, 3, DOUBLE)])
    plain = applied(name, method, **options)
    for n, (linear, x) in dense.items():
        layer, svd = model.get_submodule(n), plain.get_submodule(n)
        assert layer.weight_rank == svd.weight_rank
        centred = x - x.mean(0)
        with torch.no_grad():
            lost = layer(x) - linear(x)
            lost_by_svd = centred @ (weight_of(svd) - linear.weight).mT  # its mean output given back as well
        least = best_error(linear.weight, [centred])[: -layer.weight_rank].sum()
        assert torch.allclose(lost.square().sum(), least, rtol=1e-5)
        assert lost.square().sum() < lost_by_svd.square().sum()
        assert lost.mean(0).abs().max() < 1e-12


@pytest.mark.parametrize("init", ["output", "features"])
@pytest.mark.parametrize("method, update", START_KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_trains(name, method, update, init):
    model = make(method, "all", 0.6, update=update, init=init).apply(build(name), [batch()])
    layers = [layer for layer in model.modules() if isinstance(layer, LowRankLayer)]
    assert len(layers) == len(linear_sites(build(name), "all"))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    before = [weight_of(layer).clone() for layer in layers]
    TrainStep(model, torch.optim.SGD(model.parameters(), lr=0.05), None, clip_norm=2.0)(*batch())
    for layer, weight in zip(layers, before, strict=True):
        assert weight_of(layer).isfinite().all() and not torch.equal(weight_of(layer), weight)
        assert torch.linalg.matrix_rank(weight_of(layer)) == layer.weight_rank


@pytest.mark.parametrize("init", ["output", "features"])
@pytest.mark.parametrize("name", MODELS)
def test_at_full_rank_nothing_is_lost(name, init):
    images = batch(dtype=DOUBLE)[0]
    model = applied(name, "wasi", DOUBLE, epsilon=1.0, init=init)
    assert torch.allclose(build(name, dtype=DOUBLE).eval()(images), model.eval()(images), atol=1e-9)


@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_white_inputs_without_a_mean_give_the_svd(shape):
    weight = decaying(*shape)
    q = torch.linalg.qr(decaying(2 * shape[1], shape[1]))[0] * 3
    moments, bias = OutputMoments(weight), torch.ones(shape[0], dtype=DOUBLE)
    moments.add(torch.cat([q, -q]), bias)
    left, right = moments.factors(4)
    u, s, vh = torch.linalg.svd(weight)
    assert torch.allclose(left @ right, u[:, :4] * s[:4] @ vh[:4], atol=1e-10)
    assert torch.allclose(moments.absorbed(bias), bias)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
@pytest.mark.parametrize("rows, biased", [(1, True), (1, False), (6, True), (6, False)])
def test_few_rows_in_single_precision(rows, biased, shape):
    """What the rows span of the outputs comes first, then the weight's energy in what is left."""
    weight, x = decaying(*shape, decay=0.9).float(), decaying(rows, shape[1], seed=1).float() + 0.3
    moments, bias = OutputMoments(weight), torch.ones(shape[0]) if biased else None
    moments.add(x, bias)
    left, right = moments.factors(10)
    assert torch.allclose(left.mT @ left, torch.eye(10), atol=1e-6)
    touched = weight.double() @ (x - x.mean(0) if biased else x).double().mT
    u, s, _ = torch.linalg.svd(touched, full_matrices=False)
    u = u[:, s > 1e-6 * weight.norm()]
    energies = torch.linalg.svdvals(weight - u @ (u.mT @ weight.double())).square()
    best = (u.mT @ weight.double()).square().sum() + energies[: 10 - u.shape[1]].sum()
    assert (left @ right).norm().square().item() == pytest.approx(best.item(), rel=1e-4)
    assert (left.mT @ u.float()).square().sum().item() == pytest.approx(u.shape[1], abs=1e-4)
    if biased:
        mean = (x @ (left @ right).mT + moments.absorbed(bias)).mean(0)
        assert torch.allclose(mean, (x @ weight.mT + bias).mean(0), atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_without_a_bias_the_mean_counts_as_signal(shape):
    weight, x = decaying(*shape), decaying(40, shape[1], seed=1) + 2
    moments = OutputMoments(weight)
    for rows in x.view(2, 4, 5, -1):  # any number of calls, of any shape
        moments.add(rows, None)
    left, right = moments.factors(3)
    error = (x @ (weight - left @ right).mT).square().sum()
    assert torch.allclose(error, best_error(weight, [x])[:-3].sum(), rtol=1e-5)


def test_tied_weights_share_factors_and_each_bias_its_own_mean():
    calibration = [batch(dtype=DOUBLE)]
    dense = dense_inputs(tied_vit(), "mlp", calibration)
    model = make("wasi", "mlp", 0.6, init="output").apply(tied_vit(), calibration)
    first, second = (block.mlp for block in model.blocks)
    assert first.fc1.L is second.fc1.L and first.fc1.bias is not second.fc1.bias and first.fc2 is second.fc2
    for names in (["blocks.0.mlp.fc1", "blocks.1.mlp.fc1"], ["blocks.0.mlp.fc2"]):
        error, inputs = 0.0, []
        for n in names:
            linear, x = dense[n]
            inputs.append(x - x.mean(0))
            with torch.no_grad():
                lost = model.get_submodule(n)(x) - linear(x)
            assert lost.mean(0).abs().max() < 1e-12
            error = error + lost.square().sum()
        rank = model.get_submodule(names[0]).weight_rank
        assert torch.allclose(error, best_error(linear.weight, inputs)[:-rank].sum(), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_zero_or_non_finite_inputs_name_the_layer(value):
    model = build("timm_vit")
    nn.init.constant_(model.blocks[1].norm2.weight, value)
    nn.init.zeros_(model.blocks[1].norm2.bias)
    with pytest.raises(UserError, match=r"blocks\.1\.mlp\.fc1.*zero or not finite") as error:
        make("wsi", "mlp", init="output").apply(model, [batch()])
    assert "\n" not in str(error.value)


def test_a_layer_that_is_never_called_starts_from_its_weight():
    model = build("timm_vit")
    model.blocks[1].mlp.forward = lambda x: x
    fc1 = model.blocks[1].mlp.fc1
    model = make("wsi", "mlp", 1.0, init="output").apply(model, [batch()])
    layer = model.blocks[1].mlp.fc1
    assert torch.allclose(layer.L @ layer.R, fc1.weight, atol=1e-5) and layer.bias is fc1.bias


@pytest.mark.parametrize("given", ["qr", "null", "[svd]"])
@pytest.mark.parametrize("method", ["wasi", "wsi"])
def test_a_misspelt_one_is_refused(method, given, compose_config):
    cfg = compose_config(f"method={method}", "method.init=output")
    validate(cfg)
    OmegaConf.update(cfg, "method.init", OmegaConf.create(f"x: {given}").x)
    with pytest.raises(UserError, match=r"^method\.init=.*svd, output, features or random$"):
        validate(cfg)


def test_elsewhere_it_is_refused():
    with pytest.raises(UserError, match=r"method\.init=qr"):
        make("wsi", init="qr")
    with pytest.raises(UserError, match=r"method\.init=output: allowed is svd where weights stay dense"):
        make("asi", init="output")


@pytest.mark.parametrize("method", ["wasi", "wsi"])
@pytest.mark.parametrize("init, counts", [("svd", False), ("output", True)])
def test_calibration_batches_count_where_they_are_looked_at(method, init, counts, compose_config):
    overrides = [f"method={method}", f"method.init={init}"]
    plain, more = (compose_config(*overrides, f"rank.calibration_batches={n}") for n in (1, 3))
    assert (fingerprint(plain) != fingerprint(more)) == counts
    assert more.method.calibration_batches == 3
