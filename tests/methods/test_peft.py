"""Hugging Face's peft as a method: its LoRA equals ours, every type trains, evaluates and merges."""

import pytest
import torch
import torch.nn.functional as F

from tests.models.saving import NAMES, SPEC, logits, serve
from tests.small import CLASSES, MODELS, batch, build
from tests.small import method as make
from wasi.config.fingerprint import fingerprint
from wasi.errors import UserError
from wasi.measure.accounting import paper_accounting
from wasi.measure.flops import inference_flops
from wasi.methods.describe import describe_layers
from wasi.methods.scope import scope_linears
from wasi.models.header import ModelHeader
from wasi.models.modes import eval_mode
from wasi.models.saved import open_model, save_model
from wasi.models.structure import head_module, linear_sites
from wasi.training.step import TrainStep

pytest.importorskip("peft")

from wasi.layers.peft_linear import PeftLinear  # noqa: E402
from wasi.methods.peft import _STARTS, _TYPES, Peft  # noqa: E402


def peft(kind="lora", scope="all", **options):
    sizes = {"oft": {"block_size": 4}, "boft": {"block_size": 4}, "ia3": {}, "vera": {"lora_rank": 3}}
    sizes = sizes.get(kind, {"lora_rank": 2, "lora_alpha": 4})
    options = {"train_rest": False, "lora_rank": None, "lora_alpha": None, "block_size": None, **sizes, **options}
    return Peft("peft", scope, type=kind, calibration_batches=1, seed=0, **options)


def stepper(model):
    return TrainStep(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1), None)


@pytest.mark.parametrize("scope", ["mlp", "all"])
@pytest.mark.parametrize("name", MODELS)
def test_its_lora_is_ours(name, scope):
    """The same A and B: outputs, gradients, weight in effect and the paper's accounting agree."""
    images, labels = batch(dtype=torch.float64)
    ours = make("lora", scope).apply(build(name, dtype=torch.float64), [])
    theirs = peft(scope=scope).apply(build(name, dtype=torch.float64), [])
    pairs = []
    for site in linear_sites(ours, scope):
        a, b = ours.get_submodule(site.name), theirs.get_submodule(site.name)
        torch.nn.init.normal_(a.adapter.B, std=0.1)
        with torch.no_grad():
            b.layer.lora_A["default"].weight.copy_(a.adapter.A)
            b.layer.lora_B["default"].weight.copy_(a.adapter.B)
        pairs.append((a, b))
    logits = [model.train()(images) for model in (ours, theirs)]
    assert torch.allclose(*logits, rtol=1e-10, atol=1e-12)
    for each in logits:
        F.cross_entropy(each, labels).backward()
    for a, b in pairs:
        assert torch.allclose(a.adapter.A.grad, b.layer.lora_A["default"].weight.grad, rtol=1e-8, atol=1e-12)
        assert torch.allclose(a.adapter.B.grad, b.layer.lora_B["default"].weight.grad, rtol=1e-8, atol=1e-12)
        assert torch.allclose(a.merged().weight, b.merged().weight, rtol=1e-10, atol=1e-12)
    grads = [[p.grad for p in model.parameters() if p.requires_grad] for model in (ours, theirs)]
    assert len(grads[0]) == len(grads[1]) and all(g is not None for g in grads[0] + grads[1])
    assert paper_accounting(ours, scope, images, 8) == paper_accounting(theirs, scope, images, 8)


@pytest.mark.parametrize("kind", _TYPES)
@pytest.mark.parametrize("name", MODELS)
def test_every_type_starts_where_the_model_is_trains_and_merges(name, kind):
    images, labels = batch()
    before = build(name).eval()(images)
    if (name, kind) == ("swin", "corda"):
        with pytest.raises(UserError, match="method.type=corda"):
            peft(kind).apply(build(name), [batch()])
        return
    method = peft(kind)
    model = method.apply(build(name), [batch()])
    assert torch.allclose(model.eval()(images), before, atol=1e-5)
    sites = linear_sites(model, "all")
    layers = [model.get_submodule(site.name) for site in sites]
    dense = [layer for layer in layers if not isinstance(layer, PeftLinear)]
    assert not dense or (kind == "eva" and len(dense) < len(layers))  # EVA gives ranks where they explain most
    assert not any(p.requires_grad for layer in dense for p in layer.parameters())
    assert [e["name"] for e in describe_layers(model, "all")] == list(scope_linears(build(name), "all"))
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    step = stepper(model)
    losses = [step(images, labels).loss for _ in range(4)]
    assert losses[-1] < losses[0]
    assert all(torch.equal(model.get_parameter(n), p) for n, p in frozen.items())
    assert all(p.requires_grad for p in head_module(model).parameters())
    with eval_mode(model):
        unmerged = model(images)
        with method.deployed(model):
            assert torch.allclose(model(images), unmerged, atol=1e-5)
            assert unmerged.shape == (len(images), CLASSES)
        assert torch.equal(model(images), unmerged)


@pytest.mark.parametrize("kind", ["lora", "eva", "vera", "oft"])
def test_a_start_follows_the_seed_alone_and_a_state_loads(kind):
    state = torch.get_rng_state()
    one, two = (peft(kind).apply(build("timm_vit"), [batch()]) for _ in range(2))
    torch.set_rng_state(state)
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key]), key
    stepper(one)(*batch())
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.eval()(batch()[0]), two.eval()(batch()[0]))


def test_no_global_random_state_is_touched():
    model, state = build("timm_vit"), torch.get_rng_state()
    peft("lora").apply(model, [])
    assert torch.equal(state, torch.get_rng_state())


def test_no_gpu_is_asked_for_a_model_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: pytest.fail("a GPU was asked"))
    peft().apply(build("timm_vit"), [])


def test_the_rest_trains_by_option():
    model = peft("lora", "mlp", train_rest=True).apply(build("timm_vit"), [])
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"{site.name}.layer.base_layer.weight" for site in linear_sites(model, "mlp")}


def test_merged_it_costs_what_the_dense_model_costs():
    images = batch()[0]
    method = peft("lora")
    model = method.apply(build("timm_vit"), [])
    dense = inference_flops(make("vanilla").apply(build("timm_vit"), []), images)
    assert inference_flops(model, images) > dense
    with method.deployed(model):
        assert inference_flops(model, images) == dense


def test_a_module_used_twice_stays_one():
    model = build("timm_vit")
    model.blocks[1].mlp.fc1 = model.blocks[0].mlp.fc1
    model = peft("lora", "mlp").apply(model, [])
    assert model.blocks[1].mlp.fc1 is model.blocks[0].mlp.fc1 and isinstance(model.blocks[1].mlp.fc1, PeftLinear)


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("ia3", {"lora_rank": 4}, "method.lora_rank=4"),
        ("oft", {"lora_alpha": 4}, "method.lora_alpha=4"),
        ("lora", {"block_size": 4}, "method.block_size=4"),
        ("lora", {"tinit": 4}, "method.tinit=4"),
        ("qlora", {}, "method.type=qlora"),
    ],
)
def test_what_a_type_does_not_have_is_refused(kind, options, named):
    with pytest.raises(UserError, match=named):
        peft(kind, **options)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("lora", {"lora_rank": None}, r"lora_rank=8: allowed is at most 4, "),
        ("vera", {"lora_rank": None}, r"lora_rank=8: allowed is at most 4, "),
        ("adalora", {"lora_rank": 4}, r"init_rank=6: allowed is at most 4, "),
        ("adalora", {"init_rank": 5}, r"init_rank=5: allowed is at most 4, "),
    ],
)
def test_a_rank_that_null_stands_for_is_checked_as_one_that_is_given(kind, options, message):
    model = build("timm_vit")
    for block in model.blocks:
        block.mlp.fc1, block.mlp.fc2 = torch.nn.Linear(32, 4), torch.nn.Linear(4, 32)
    with pytest.raises(UserError, match=rf"^method\.{message}"):
        peft(kind, "mlp", **options).apply(model, [batch()])


@pytest.mark.parametrize("kind", _TYPES)
def test_the_number_of_calibration_batches_counts_for_the_types_that_use_them(kind, compose_config):
    words = ["method=peft", f"method.type={kind}"]
    one, four = (fingerprint(compose_config(*words, *more)) for more in ([], ["rank.calibration_batches=4"]))
    assert (one != four) == (kind in _STARTS)


@pytest.mark.parametrize("kind", ["oft", "boft"])
def test_a_block_size_that_does_not_divide_every_width_is_refused(kind):
    model = build("timm_vit")
    for block in model.blocks:
        block.mlp.fc1, block.mlp.fc2 = torch.nn.Linear(32, 4), torch.nn.Linear(4, 32)
    message = r"^method\.block_size=8: allowed is a divisor of every width in scope; blocks\.0\.mlp\.fc2 has 4 inputs"
    with pytest.raises(UserError, match=message):
        peft(kind, "mlp", block_size=None).apply(model, [batch()])


@pytest.mark.parametrize("kind", _TYPES)
def test_a_files_model_computes_what_the_trained_one_does(kind, tmp_path, monkeypatch):
    """With biases that are not zero, as those of pretrained weights."""
    serve(monkeypatch, "timm_vit")
    model = build("timm_vit")
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    model = peft(kind).apply(model, [batch()])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    header = ModelHeader("timm", "timm_vit", "peft", "all", NAMES, SPEC, tuple(describe_layers(model, "all")))
    save_model(tmp_path / "model.safetensors", model, header)
    opened, _ = open_model(tmp_path)
    images = batch(3)[0]
    torch.testing.assert_close(logits(opened, images), logits(model, images), rtol=1e-4, atol=1e-5)


def test_eva_takes_class_attention_or_is_refused_where_its_components_do_not_converge():
    """Class attention has one query an image: with fewer images than components, peft would go on for ever."""
    from timm.models.cait import Cait

    options = {"embed_dim": 32, "depth": 2, "depth_token_only": 2, "num_heads": 4, "num_classes": CLASSES}
    model = peft("eva").apply(Cait(16, 4, **options), [batch(8)])
    assert isinstance(model.blocks_token_only[1].attn.q, PeftLinear)
    with pytest.raises(UserError, match="^method.type=eva: allowed is another type, .* did not converge"):
        peft("eva").apply(Cait(16, 4, **options), [batch(3)])
