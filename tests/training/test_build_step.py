"""What a method may change about its training, and what optimizer and scheduler are given."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tests.small import CLASSES, applied, batch
from train import train
from wasi.bench.subject import Subject
from wasi.config.known_options import check_config
from wasi.errors import UserError
from wasi.methods.method import Method
from wasi.runs.job import Run
from wasi.training.build_step import build_step
from wasi.training.check_arguments import check_arguments


class Biased(Method):
    """Biases at ten times the rate and without decay; counts its steps."""

    steps = 0

    def parameter_groups(self, model, defaults):
        biases = [p for n, p in model.named_parameters() if n.endswith("bias")]
        return [{"params": biases, "lr": 10 * defaults["lr"], "weight_decay": 0.0}]

    def wrap_step(self, step):
        step.optimizer.register_step_post_hook(lambda *_: setattr(self, "steps", self.steps + 1))
        return step


def test_groups_and_hooks_of_a_method_count(compose_config):
    method, model = Biased(), applied("timm_vit", "vanilla")
    options = ["optimizer.lr=0.01", "optimizer.weight_decay=0.1", "train.clip_norm=null"]
    step = build_step(model, None, compose_config("method=vanilla", *options), method)
    held = [p for group in step.optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    images, labels = batch()
    torch.nn.functional.cross_entropy(model.train()(images), labels).backward()
    expected = {}
    for name, p in model.named_parameters():
        rate, decay = (0.1, 0.0) if name.endswith("bias") else (0.01, 0.1)
        expected[name] = p.detach() - rate * (p.grad + decay * p.detach())
    model.zero_grad()
    step(images, labels)
    assert method.steps == 1
    for name, p in model.named_parameters():
        assert torch.allclose(p, expected[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ([], {15, 1}),  # 17 tokens of 5120 numbers: 15 images are 4.98 MiB
        (["train.chunk_mib=5"], {15, 1}),
        (["train.chunk_mib=1"], {3, 1}),
        (["train.chunk_size=2"], {2}),
        (["train.memory_budget_mib=4000"], {16}),
    ],
)
def test_chunks_of_a_wide_net_have_fewer_images_unless_there_is_a_budget(options, sizes, compose_config):
    model = VisionTransformer(16, 4, embed_dim=64, depth=1, num_heads=2, mlp_ratio=80, num_classes=CLASSES)
    cfg = compose_config("method=vanilla", "train.memory=lean", *options)
    step = build_step(model, lambda images: images / 255, cfg, Method())
    seen = set()
    model.blocks[0].norm1.register_forward_hook(lambda _, args, out: seen.add(len(out)))
    images = torch.randint(256, (16, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    step(*step.prepare(images, torch.arange(16) % CLASSES))
    assert seen == sizes


def test_without_any_the_groups_are_the_optimizers(compose_config):
    step = build_step(applied("timm_vit", "vanilla"), None, compose_config("method=vanilla"), Method())
    assert len(step.optimizer.param_groups) == 1


class Penalised(Method):
    def wrap_step(self, step):
        step.penalties.append(lambda: sum(p.square().sum() for p in step.model.parameters()))
        return step


@pytest.mark.parametrize("memory", ["plain", "lean"])
def test_penalties_and_steps_in_the_backward_pass_exclude_each_other(memory, compose_config):
    """The penalty's own backward pass would step on the matrices once more."""
    options = ["method=vanilla", "optimizer=swan", "train.step_in_backward=true", f"train.memory={memory}"]
    with pytest.raises(UserError, match="train.step_in_backward=true: allowed is false for a method that adds pen"):
        build_step(applied("timm_vit", "vanilla"), lambda images: images, compose_config(*options), Penalised())


class WithOneMore(Method):
    """Trains a number of its own, which the model does not have."""

    def parameter_groups(self, model, defaults):
        self.scale = torch.nn.Parameter(torch.ones(1))
        return [{"params": [self.scale, *model.head.parameters()], "lr": 0.5}]


def test_a_method_s_group_may_have_parameters_of_its_own(compose_config):
    method = WithOneMore()
    step = build_step(applied("timm_vit", "vanilla"), None, compose_config("method=vanilla"), method)
    rates = {id(p): group["lr"] for group in step.optimizer.param_groups for p in group["params"]}
    assert rates[id(method.scale)] == rates[id(step.model.head.weight)] == 0.5


class FasterBlocks(Method):
    def parameter_groups(self, model, defaults):
        return [{"params": list(model.blocks.parameters()), "lr": 7 * defaults["lr"]}]


def test_what_a_method_s_group_does_not_say_stays_as_it_was(compose_config):
    model = applied("timm_vit", "wsi")
    step = build_step(model, None, compose_config("optimizer=swan", "optimizer.weight_decay=0.1"), FasterBlocks())
    groups = {id(p): group for group in step.optimizer.param_groups for p in group["params"]}
    layer = model.blocks[0].mlp.fc1
    assert groups[id(layer.L)]["weight_decay"] == 0 and groups[id(layer.L)]["lr"] == step.optimizer.defaults["lr"] * 7
    assert groups[id(layer.R)]["whiten"] and groups[id(layer.R)]["weight_decay"] == 0.1
    assert not groups[id(layer.bias)]["whiten"]


ADADELTA = (
    *("optimizer._target_=torch.optim.Adadelta", "~optimizer.momentum", "~optimizer.dampening", "~optimizer.nesterov"),
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["+optimizer.fused=banana"], "optimizer.fused=banana: allowed is true, false or null"),
        (["+optimizer.maximize=3"], "optimizer.maximize=3: allowed is true or false"),
        (["+optimizer.betas=[0.5,0.9]"], "optimizer.betas=[0.5, 0.9]: allowed is one of optimizer.dampening,"),
        ([*ADADELTA, "+optimizer.rho=3"], "optimizer.rho=3: allowed is what torch.optim.Adadelta takes (ValueError: "),
        ([*ADADELTA, "+optimizer.rho=abc"], "optimizer.rho=abc: allowed is what torch.optim.Adadelta takes (Type"),
        (
            ["optimizer=adamw", "+optimizer.fused=true", "+optimizer.foreach=true"],
            "optimizer.fused=true: allowed is what torch.optim.AdamW takes (RuntimeError: ",
        ),
        (["optimizer=adamw", "+optimizer.capturable=true"], "optimizer.capturable=true: allowed is what torch.optim."),
        (["optimizer=swan", "+optimizer.xyz=3"], "optimizer.xyz=3: allowed is what wasi.training.swan.Swan takes"),
        (["+scheduler.xyz=3"], "scheduler.xyz=3: allowed is one of scheduler.min_lr_ratio, scheduler.warmup_epochs"),
        (["scheduler._target_=torch.optim.lr_scheduler.Nope"], "scheduler._target_=torch.optim.lr_scheduler.Nope: "),
    ],
)  # fmt: skip
def test_arguments_of_optimizer_and_scheduler_are_refused_in_one_line(options, message, compose_config):
    cfg = compose_config(*options)
    with pytest.raises(UserError) as refused:
        check_config(cfg)
        check_arguments(cfg, torch.device("cpu"))
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


ONE_CYCLE = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "_partial_": True, "max_lr": 0.1, "pct_start": 0.1}


@pytest.mark.parametrize("scheduler", [None, ONE_CYCLE])
@pytest.mark.parametrize("options", [[], ["optimizer=adamw", "+optimizer.fused=null"], ["optimizer=swan_momentum"]])
def test_arguments_that_fit_are_not_refused(options, scheduler, compose_config):
    cfg, state = compose_config("scheduler=constant", *options), torch.get_rng_state()
    cfg.scheduler = scheduler or cfg.scheduler
    check_arguments(cfg, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)


def test_arguments_are_checked_before_data_are_loaded(compose_config, monkeypatch, tmp_path):
    def loaded(*_):
        raise AssertionError("data were loaded")

    monkeypatch.setattr("wasi.data.catalogue.load_data", loaded)
    monkeypatch.setattr("wasi.bench.subject.load_data", loaded)
    cfg = compose_config(*ADADELTA, "+optimizer.rho=3")
    for begin in (lambda: train(cfg, Run(tmp_path)), lambda: Subject(cfg)):
        with pytest.raises(UserError, match="optimizer.rho=3"):
            begin()
