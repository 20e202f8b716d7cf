"""Layers and optimizers outside of train.py, and docs/own_loop.md, whose example trains as `TrainStep` does."""

import re
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.small import CLASSES, START_KINDS, applied, batch, build
from tests.small import method as make
from wasi.errors import UserError
from wasi.methods.selection import ActivationRanks
from wasi.methods.wasi import SubspaceMethod
from wasi.training import subspace_iteration
from wasi.training.chunked_checkpoint import ChunkedCheckpoint, Repeated
from wasi.training.optimizer import optimizer_for
from wasi.training.step import TrainStep
from wasi.training.subspace_iteration import SubspaceIteration
from wasi.training.swan import Swan

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "own_loop.md"


def test_the_loop_of_the_document_makes_the_steps_of_train_step(monkeypatch):
    code, to_dense = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)
    before_the_loop, loop = code.split("for images, labels in batches:")
    monkeypatch.setattr("timm.create_model", lambda *_, **__: build("timm_vit"))

    def trained(code: str) -> dict:
        names = {"calibration": [batch()], "batches": 5 * [batch()], "TrainStep": TrainStep, "losses": []}
        exec(code, names)
        return names

    theirs = trained(before_the_loop + "for images, labels in batches:" + loop)
    step = "step = TrainStep(model, optimizer, None)\nfor one in batches:\n    losses.append(step(*one).loss)"
    ours = trained(before_the_loop + step)
    assert len(ours["subspace"].coordinate_layers) > 0 and ours["losses"][-1] < ours["losses"][0]
    expected = ours["model"].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in theirs["model"].state_dict().items())
    logits = theirs["model"].eval()(batch()[0])
    assert logits.shape[1] == CLASSES
    exec(to_dense, theirs)
    assert torch.allclose(theirs["dense"].eval()(batch()[0]), logits, atol=1e-5)


def step(model, optimizer, subspace):
    images, labels = batch(dtype=next(model.parameters()).dtype)
    cross_entropy(model.train()(images), labels).backward()
    subspace.prepare(max_norm=None)
    optimizer.step()
    subspace.finish()
    optimizer.zero_grad()


@pytest.mark.parametrize("options", [{}, {"step_in_backward": True}, {"micro_batch_size": 4}])
@pytest.mark.parametrize("method", ["wasi", "wsi"])
def test_swan_with_momentum_steps_on_no_matrix_that_is_frozen_or_unused(method, options):
    model = applied("timm_vit", method)
    step = TrainStep(model, optimizer_for(model, Swan, lr=1e-3, momentum=0.9), lambda images: images, **options)
    step(*batch())
    model.blocks[1].requires_grad_(False)
    layers = {f"{n}.{name}": getattr(model.blocks[n].mlp, name) for n in (0, 1) for name in ("fc1", "fc2")}
    before = {name: (layer.L @ layer.R).detach() for name, layer in layers.items()}
    step(*batch())
    step(*batch())
    changes = {name: (layer.L @ layer.R - before[name]).abs().max() for name, layer in layers.items()}
    assert changes["0.fc1"] > 1e-4 and changes["0.fc2"] > 1e-4
    assert changes["1.fc1"] < 1e-6 and changes["1.fc2"] < 1e-6  # rounding of `retract`


@pytest.mark.parametrize(("method", "update"), [*START_KINDS, ("asi", None)])
def test_frozen_weights_stay_frozen_and_layers_stay_in_their_mode(method, update):
    model = build("timm_vit").eval()
    model.blocks[0].requires_grad_(False)
    model = make(method, update=update).apply(model, [batch()])
    assert not any(p.requires_grad for p in model.blocks[0].parameters())
    assert all(p.requires_grad for p in model.blocks[1].parameters())
    assert not any(module.training for module in model.modules())


def test_coordinates_of_an_earlier_optimizer_are_dropped():
    model = applied("timm_vit", "wasi")
    optimizer_for(model, torch.optim.SGD, lr=0.1)
    layer = model.blocks[0].mlp.fc1
    assert layer.C is not None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    subspace = SubspaceIteration(model, optimizer)
    before = layer.R.detach().clone()
    step(model, optimizer, subspace)
    assert layer.C is None and not torch.equal(layer.R, before)


@pytest.mark.parametrize("kind", [torch.optim.SGD, Swan])
def test_a_layer_with_one_frozen_factor_trains_the_other(kind):
    model = applied("timm_vit", "wasi")
    layer = model.blocks[0].mlp.fc1
    layer.R.requires_grad_(False)
    optimizer = optimizer_for(model, kind, lr=0.1)
    left, right = layer.L.detach().clone(), layer.R.detach().clone()
    step(model, optimizer, SubspaceIteration(model, optimizer))
    assert not torch.equal(layer.L, left) and torch.equal(layer.R, right)


@pytest.mark.parametrize(("method", "update"), [*START_KINDS, ("asi", None)])
def test_what_is_decomposed_after_a_step_is_refused_in_bfloat16(method, update):
    model = applied("timm_vit", method, update=update).bfloat16()
    with pytest.raises(ValueError, match="torch.bfloat16: they must be float32 or float64"):
        SubspaceIteration(model, torch.optim.SGD(model.parameters(), lr=0.1))
    if method == "wsi" and update == "subspace":  # AdamW's steps on factors need no decomposition
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        step(model, optimizer, SubspaceIteration(model, optimizer))


@pytest.mark.parametrize("method", ["wasi", "asi", "svd_llm", "lora"])
def test_a_forward_pass_that_trains_runs_on_the_meta_device(method):
    model = applied("timm_vit", method).to("meta").train()
    loss = model(batch()[0].to("meta")).sum()
    loss.backward()
    assert loss.is_meta


def test_an_input_with_another_number_of_dimensions_is_told():
    layer = applied("timm_vit", "wasi").blocks[0].mlp.fc1
    with pytest.raises(ValueError, match="an input of 2 dimensions to a layer with bases for 3"):
        layer(torch.randn(4, layer.in_features))


def test_a_double_input_is_not_rounded_under_autocast():
    layer = applied("timm_vit", "wasi", torch.float64).blocks[0].mlp.fc1
    x = torch.randn(8, 17, layer.in_features, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.float64 and torch.equal(found, layer(x))


def test_an_inverse_kept_for_a_basis_is_not_used_in_steps_that_compute_their_own():
    model = applied("timm_vit", "wasi")
    optimizer = optimizer_for(model, torch.optim.SGD, lr=0.1)
    layer = model.blocks[0].mlp.fc1
    layer.P = torch.full((layer.weight_rank, layer.state.feature_basis.shape[1]), torch.nan)
    step(model, optimizer, SubspaceIteration(model, optimizer))
    assert layer.L.isfinite().all()


def test_second_derivatives_through_a_repeated_part_are_refused():
    weight = torch.randn(3, 3, requires_grad=True)
    kind = torch.float32
    part = Repeated(
        run=lambda x: x @ weight, size=2, dtype=kind, storage=kind, out=kind, parameters=[weight],
        done=lambda: None, rerun=lambda x: x @ weight, repetition=lambda: torch.enable_grad,
    )  # fmt: skip
    x = torch.randn(4, 3, requires_grad=True)
    y = ChunkedCheckpoint.apply(torch.empty(0, requires_grad=True), x, part)
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


_PREPARED, _FINISHED = r"call SubspaceIteration.prepare\(\)", r"call SubspaceIteration.finish\(\)"


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, Swan])
@pytest.mark.parametrize("method", ["wasi", "wsi"])
@pytest.mark.parametrize("order", ["sf", "ps", "pfs"])
def test_calls_in_an_order_in_which_steps_are_lost_are_refused(order, method, kind):
    model = applied("timm_vit", method)
    optimizer = optimizer_for(model, kind, lr=1e-3)
    subspace = SubspaceIteration(model, optimizer)
    calls = {"p": lambda: subspace.prepare(max_norm=None), "s": optimizer.step, "f": subspace.finish}

    def steps(order):
        cross_entropy(model(batch()[0]), batch()[1]).backward()
        for call in order:
            calls[call]()

    if order == "sf" and kind is not torch.optim.SGD:  # `prepare` would only clip
        return steps(2 * order)
    with pytest.raises(RuntimeError, match=_PREPARED if order == "sf" else _FINISHED):
        steps(order), steps(order)


def test_a_step_may_be_skipped_and_what_comes_before_and_after_it_not():
    model = applied("timm_vit", "wasi")
    optimizer = optimizer_for(model, torch.optim.SGD, lr=1e-3)
    subspace = SubspaceIteration(model, optimizer)
    subspace.prepare(max_norm=None)
    subspace.finish()
    subspace.prepare(max_norm=None)
    step(model, optimizer, SubspaceIteration(model, optimizer))
    step(model, optimizer, subspace)


def test_swan_without_what_completes_its_steps_is_refused():
    model = applied("timm_vit", "wasi")
    swan = optimizer_for(model, Swan, lr=1e-3)
    with pytest.raises(RuntimeError, match=_FINISHED):
        for _ in range(2):
            cross_entropy(model(batch()[0]), batch()[1]).backward()
            swan.step()


@pytest.mark.parametrize("name", ["wasi", "wsi", "svd_llm", "lora"])
def test_an_optimizer_made_before_the_layers_were_replaced_is_refused(name):
    model = build("timm_vit")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model = make(name).apply(model, [batch()])
    with pytest.raises(ValueError, match="the optimizer holds no weight of the low-rank layers"):
        SubspaceIteration(model, optimizer)


def test_an_optimizer_of_some_of_the_layers_is_not_refused():
    model = applied("timm_vit", "wasi")
    SubspaceIteration(model, torch.optim.AdamW(model.blocks[0].parameters(), lr=1e-3))
    model.blocks.requires_grad_(False)
    SubspaceIteration(model, torch.optim.AdamW(model.head.parameters(), lr=1e-3))


@pytest.mark.parametrize(("name", "kind", "is_refused"), [
    ("wasi", Swan, True), ("wasi", torch.optim.AdamW, True), ("asi", torch.optim.AdamW, True),
    ("wsi", torch.optim.AdamW, False), ("lora", torch.optim.AdamW, False),
])  # fmt: skip
def test_processes_whose_sums_nobody_takes_are_refused(name, kind, is_refused, monkeypatch):
    monkeypatch.setattr(subspace_iteration, "world_size", lambda: 2)
    model = applied("timm_vit", name)
    optimizer = optimizer_for(model, kind, lr=1e-3)
    SubspaceIteration(model, optimizer, summed_over_processes=True)
    if not is_refused:
        SubspaceIteration(model, optimizer)
        return
    with pytest.raises(ValueError, match="^DistributedDataParallel does not sum the gradients of coordinates"):
        SubspaceIteration(model, optimizer)


@pytest.mark.parametrize("kind", [Swan, torch.optim.AdamW])
def test_a_batch_that_is_discarded_leaves_no_trace(kind):
    states = []
    for discarded in (False, True):
        model = applied("timm_vit", "wasi")
        optimizer = optimizer_for(model, kind, lr=1e-3)
        subspace = SubspaceIteration(model, optimizer)
        step(model, optimizer, subspace)
        if discarded:
            cross_entropy(model(float("nan") * batch()[0]), batch()[1]).backward()
            subspace.discard()
        step(model, optimizer, subspace)
        states.append(model.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_a_batch_that_is_in_the_momentum_cannot_be_discarded():
    model = applied("timm_vit", "wasi")
    optimizer = optimizer_for(model, Swan, lr=1e-3, momentum=0.9)
    subspace = SubspaceIteration(model, optimizer)
    for first in (True, False):
        cross_entropy(model(batch()[0]), batch()[1]).backward()
        if first:  # there is no momentum yet
            subspace.discard()
        else:
            with pytest.raises(RuntimeError, match="^a gradient is in Swan's momentum"):
                subspace.discard()
            optimizer.zero_grad()
        subspace.discard()
        step(model, optimizer, subspace)


@pytest.mark.parametrize("name", ["wasi", "asi", "wsi"])
def test_a_model_may_change_what_a_layer_returns_in_place(name):
    found = []
    for inplace in (False, True):
        model = applied("timm_vit", name)
        for block in model.blocks:
            block.mlp.act = torch.nn.ReLU(inplace)
        cross_entropy(model(batch()[0]), batch()[1]).backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["wasi", "asi"])
def test_bases_are_refused_in_float16_and_not_in_bfloat16(name):
    model = applied("timm_vit", name)
    with torch.autocast("cpu", torch.bfloat16):
        cross_entropy(model(batch()[0]), batch()[1]).backward()
    with torch.autocast("cpu", torch.float16), pytest.raises(ValueError, match="^torch.autocast to float16: "):
        model(batch()[0])


def test_swan_is_told_which_parameters_are_matrices():
    with pytest.raises(ValueError, match="optimizer_for"):
        Swan(applied("timm_vit", "wasi").parameters(), lr=1e-3)
    with pytest.raises(ValueError, match=r"momentum=1.0: it must be in \[0, 1\)"):
        optimizer_for(applied("timm_vit", "wasi"), Swan, lr=1e-3, momentum=1.0)
    with pytest.raises(TypeError, match="head_lr_ratio=2.0 multiplies lr"):
        optimizer_for(applied("timm_vit", "wasi"), torch.optim.AdamW, head_lr_ratio=2.0)


@pytest.mark.parametrize("second", ["wasi", "svd_llm", "lora"])
def test_a_method_after_another_on_the_same_layers_is_refused(second):
    model = applied("timm_vit", "wasi", scope="mlp")
    make("lora", scope="attention").apply(model, [batch()])
    with pytest.raises(UserError, match=r"blocks\.0\.attn\.qkv is already replaced by AdapterLinear"):
        make(second).apply(model, [batch()])


@pytest.mark.parametrize("name", ["wasi", "svd_llm"])
@pytest.mark.parametrize(
    ("calibration", "error", "text"),
    [
        (lambda: iter([batch()]), TypeError, "cannot be an iterator: give a list"),
        (lambda: (batch() for _ in range(2)), TypeError, "cannot be an iterator: give a list"),
        (lambda: [], ValueError, "there is no calibration batch"),
        (lambda: batch(), TypeError, "a pair of images and labels, not a Tensor"),
        (lambda: [{"image": batch()[0]}], TypeError, "a pair of images and labels, not a dict"),
    ],
)
def test_calibration_data_that_are_no_list_of_batches_are_refused(calibration, error, text, name):
    with pytest.raises(error, match=text):
        make(name).apply(build("timm_vit"), calibration())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epsilon": 90}, "rank.activation_epsilon=90: "),
        ({"token_epsilon": 0.0}, "rank.token_epsilon=0.0: "),
        ({"update_gap": 0}, "rank.basis_update_gap=0: "),
        ({"batch_mode": "all"}, "rank.batch_mode=all: "),
        ({"ranks": [8, 17, 0]}, r"rank.activation_ranks=\[8, 17, 0\]: "),
    ],
)
def test_ranks_of_activations_out_of_their_range_are_refused(options, text):
    with pytest.raises(UserError, match=f"^{text}"):
        ActivationRanks("epsilon", **{"epsilon": 0.9, **options})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"weight_epsilon": 80.0}, "rank.weight_epsilon=80.0: "),
        ({"weight_epsilon": 0.8, "calibration_batches": 0}, "rank.calibration_batches=0: "),
        (
            {"weight_epsilon": 0.8, "init": "features", "weight_allocation": "sensitivity", "parameter_ratio": 5.0},
            "rank.parameter_ratio=5.0: ",
        ),
        ({"init": "features"}, "method.init=features: allowed is svd where weights stay dense"),
    ],
)
def test_ranks_of_weights_out_of_their_range_are_refused(options, text):
    with pytest.raises(UserError, match=f"^{text}"):
        SubspaceMethod("wasi", "all", False, **options)
