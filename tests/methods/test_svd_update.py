"""`method=wsi method.update=svd`: the paper's baseline, against its definition on dense matrices."""

import copy

import pytest
import torch

from tests.measure.test_flops import counted
from tests.small import MODELS, applied, batch, build, flops
from tests.small import method as make
from wasi.errors import UserError
from wasi.layers.svd_linear import SvdLinear
from wasi.models.structure import linear_sites
from wasi.training.step import TrainStep
from wasi.training.subspace_iteration import SubspaceIteration

DOUBLE = torch.float64


def svd_layers(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, SvdLinear)}


def sgd(model, lr=0.05):
    return torch.optim.SGD(model.parameters(), lr=lr)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_a_dense_step_and_then_a_truncation(name):
    model = applied(name, "wsi", DOUBLE, epsilon=0.7, update="svd")
    layers = svd_layers(model)
    assert len(layers) == len(linear_sites(build(name), "all"))
    dense = copy.deepcopy(model)
    images, labels = batch(dtype=DOUBLE)
    torch.nn.functional.cross_entropy(dense.train()(images), labels).backward()
    TrainStep(model, sgd(model), None)(images, labels)
    for n, layer in layers.items():
        before = dense.get_submodule(n).weight
        u, s, vh = torch.linalg.svd(before.detach() - 0.05 * before.grad)
        k = layer.weight_rank
        assert torch.allclose(layer.weight, u[:, :k] * s[:k] @ vh[:k], atol=1e-12)
        assert torch.linalg.matrix_rank(layer.weight) == k < min(layer.weight.shape)


def test_it_starts_where_wsi_starts():
    subspace, svd = (applied("timm_vit", "wsi", DOUBLE, epsilon=0.7, update=u) for u in ("subspace", "svd"))
    images = batch(dtype=DOUBLE)[0]
    assert torch.allclose(subspace.eval()(images), svd.eval()(images), atol=1e-12)
    for n, layer in svd_layers(svd).items():
        assert layer.weight_rank == subspace.get_submodule(n).weight_rank


def test_subspace_iteration_differs_from_it_by_quadratic_terms():
    """Both take W - lr dW back to rank K; halving the step quarters what they differ by."""

    def difference(lr):
        options = {"dtype": DOUBLE, "epsilon": 0.7, "scope": "mlp"}
        nets = [applied("timm_vit", "wsi", update=update, **options) for update in ("subspace", "svd")]
        for net in nets:
            for p in net.parameters():
                p.requires_grad_(False)
        name = "blocks.1.mlp.fc1"
        a, b = (net.get_submodule(name) for net in nets)
        for p in (a.L, a.R, b.weight):
            p.requires_grad_(True)
        for net in nets:
            TrainStep(net, torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=lr), None)(
                *batch(dtype=DOUBLE)
            )
        return (a.L @ a.R - b.weight).norm().item()

    assert difference(0.02) / difference(0.01) == pytest.approx(4, rel=0.15)


def test_tied_weights_are_truncated_once():
    model = build("timm_vit")
    model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight
    model = make("wsi", "mlp", update="svd").apply(model, [batch()])
    assert model.blocks[0].mlp.fc1.weight is model.blocks[1].mlp.fc1.weight
    assert len(SubspaceIteration(model, sgd(model)).truncating) == 3


def test_its_work_counts_as_subspace_work():
    model = applied("timm_vit", "wsi", epsilon=0.7, update="svd")
    images, labels = batch(6)
    found = flops(TrainStep(model, sgd(model), None), images, labels)
    layers = svd_layers(model).values()
    assert found["flops/train_subspace"] == counted(lambda: [layer.retract_() for layer in layers]) > 0


@pytest.mark.parametrize("method", ["wasi", "asi"])
def test_elsewhere_it_is_refused(method):
    with pytest.raises(UserError, match="method.update=svd"):
        make(method, update="svd")


def test_an_unknown_update_is_refused():
    with pytest.raises(UserError, match="method.update=qr"):
        make("wsi", update="qr")


@pytest.mark.parametrize("value, ok", [("svd", True), ("subspace", True), ("qr", False)])
def test_the_option(value, ok, compose_config):
    from wasi.config.validate import validate

    cfg = compose_config("method=wsi", f"method.update={value}")
    if ok:
        validate(cfg)
    else:
        with pytest.raises(UserError, match="method.update=qr"):
            validate(cfg)
